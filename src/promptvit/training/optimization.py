"""Optimiser groups and the learning rate by step."""

import math

import torch
from torch import nn

from promptvit.model import PromptedModel
from promptvit.training.settings import TrainSettings


def build_optimizer(model: PromptedModel, settings: TrainSettings) -> torch.optim.Optimizer:
    """Groups for the method and the head; no decay on biases, gates and other tensors of one dimension."""
    head_lr = settings.lr if settings.head_lr is None else settings.head_lr
    head_decay = settings.weight_decay if settings.head_weight_decay is None else settings.head_weight_decay
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.trainable_parameters():
        lr, decay = (head_lr, head_decay) if name.startswith("head.") else (settings.lr, settings.weight_decay)
        plain = parameter.ndim <= 1 or name.endswith("bias")
        groups.setdefault((lr, 0.0 if plain else decay), []).append(parameter)
    listed = [{"params": parameters, "lr": lr, "weight_decay": decay, "peak": lr} for (lr, decay), parameters in groups.items()]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(listed, lr=settings.lr)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Give every group its peak rate times ``factor``; returns the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return float(optimizer.param_groups[0]["lr"])


def rate_factor(settings: TrainSettings, epoch: int, step: int, steps: int) -> float:
    """Factor of the peak rate in step ``step`` of ``steps`` of an epoch, both from 0."""
    total = settings.total_steps(steps)
    match settings.schedule:
        case "epoch":
            return epoch_schedule(epoch, math.ceil(total / steps), settings.warmup)
        case "poly":
            return poly(epoch * steps + step, total, settings.warmup)
        case "step":
            return schedule(epoch * steps + step, total, settings.warmup)


def epoch_schedule(epoch: int, epochs: int, warmup: float) -> float:
    """Factor in [0, 1] of a whole epoch as VPT's code has it: 0 in the first, the peak after the warm-up, then half a cosine."""
    warm = warmup * epochs
    if epoch < warm:
        return epoch / warm
    return 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (epochs - warm)))


def schedule(step: int, total: int, warmup: float) -> float:
    """Factor in (0, 1] of step ``step`` of ``total``: linear warm-up over the share ``warmup``, then half a cosine to zero."""
    warm = warmup * total
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def poly(step: int, total: int, warmup: float = 0.0, power: float = 0.9) -> float:
    """Factor in (0, 1]: linear warm-up as above, then the share of the steps that are left, to the power of ``power``."""
    warm = warmup * total
    if step < warm:
        return (step + 1) / (warm + 1)
    return ((total - step) / (total - warm)) ** power
