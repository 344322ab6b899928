"""Linear probes: where neither the backbone nor its inputs change, one pass over the images is all the backbone ever does.

``extract`` makes that pass; an ordinary ``train(method="linear", augment="none")`` reads its features instead of images, and
``train_heads`` trains hundreds of heads on them at once.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from promptvit.data import Split, batches
from promptvit.data.loader import places
from promptvit.heads.classification import HeadInit, LinearHead
from promptvit.model import PromptedModel
from promptvit.training.optimization import schedule
from promptvit.training.settings import TrainSettings

IN_MEMORY = 2**30  # bytes of features; more are memory-mapped from a temporary file
CACHED = 2**18  # weights of heads trained at a time: with gradient and moments 5 MB, which a processor's caches hold


def inputs_are_fixed(settings: TrainSettings) -> bool:
    """Whether every epoch of this run would compute the same features again."""
    return settings.task == "classification" and settings.method == "linear" and settings.augment in (None, "none")


@torch.no_grad()
def extract(
    model: PromptedModel, split: Split, *, batch_size: int = 64, workers: int = 2, in_memory: int = IN_MEMORY,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Features ``[N, D]`` float32 of every image of ``split``, in its order, from one pass in evaluation mode.

    Args:
        in_memory: more bytes than this are memory-mapped from a temporary file that goes with the tensor.
        autocast: gives the context in which the backbone runs.
    """
    was_training = model.training
    model.eval()
    device = next(model.head.parameters()).device
    features = _room(len(split), model.backbone.width, in_memory)
    for batch in batches(split, model.preprocessing, batch_size=batch_size, workers=workers):
        with autocast():
            found = model.method(model.backbone, model.preprocessing.normalized(batch.images.to(device))).features
        features[batch.indices] = found.float().cpu()
    model.train(was_training)
    return features


def _room(rows: int, width: int, in_memory: int) -> Tensor:
    if 4 * rows * width <= in_memory:
        return torch.empty(rows, width)
    with tempfile.NamedTemporaryFile(suffix=".features", delete=False) as file:
        path = Path(file.name)
    room = torch.from_file(str(path), shared=True, size=rows * width, dtype=torch.float32).view(rows, width)
    with suppress(PermissionError):  # Windows does not delete a mapped file
        path.unlink()  # the mapping keeps the pages; nothing is left behind however the process ends
    return room


@dataclass(frozen=True)
class HeadSettings:
    """Learning rate, weight decay and seed of the start of one head."""

    lr: float
    weight_decay: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class Heads:
    """K trained heads: ``weights [K, C, D]`` and ``biases [K, C]``, on the features' device."""

    weights: Tensor
    biases: Tensor

    def accuracy(self, features: Tensor, labels: Tensor) -> Tensor:
        """Share ``[K]`` of ``labels [N]`` that each head names right from ``features [N, D]``."""
        right = [(F.linear(features, w, b).argmax(dim=-1) == labels).float().mean() for w, b in zip(self.weights, self.biases, strict=True)]
        return torch.stack(right)


def train_heads(
    features: Tensor, labels: Tensor, num_classes: int, heads: Sequence[HeadSettings], *, epochs: int, batch_size: int = 32,
    optimizer: Literal["adamw", "sgd"] = "adamw", momentum: float = 0.9, warmup: float = 0.1, head_init: HeadInit = "small",
    data_seed: int = 0,
) -> Heads:
    """Train many linear heads together; each ends where ``train(method="linear", augment="none", select="last")`` would bring it.

    Args:
        features: ``[N, D]``, as :func:`extract` gives them; computed in their precision, on their device.
        labels: ``[N]`` class indices.
        num_classes: C.
        heads: what differs from head to head. All see the same batches.
        epochs, batch_size, optimizer, momentum, warmup, head_init: as in :class:`TrainSettings`.
        data_seed: of the order.

    Raises:
        ValueError: no heads, no epochs, or labels that do not fit the features.
    """
    if not heads or epochs < 1 or len(labels) != len(features):
        given = f"{len(heads)} heads, {epochs} epochs, {len(features)} features and {len(labels)} labels"
        raise ValueError(f"train_heads: {given}; give a head and an epoch or more, and a label for each feature")
    size = max(1, CACHED // (num_classes * (features.shape[1] + 1)))
    ones = features.new_ones(len(features), 1)
    extended = torch.cat([features, ones], dim=1)  # the last row of the weights is then the bias
    order = [(epoch, place) for epoch in range(epochs) for place in places(len(features), batch_size, epoch, data_seed)]
    trained = []
    for start in range(0, len(heads), size):
        group = _Group(heads[start : start + size], features, num_classes, head_init, optimizer, momentum)
        for step, (_, place) in enumerate(order):
            rows = torch.from_numpy(place).to(features.device)
            group.step(extended[rows], labels[rows], schedule(step, len(order), warmup))
        trained.append(group.weights.view(-1, group.count, num_classes).permute(1, 2, 0))
    whole = torch.cat(trained)
    return Heads(whole[..., :-1].contiguous(), whole[..., -1].contiguous())


class _Group:
    """Heads side by side in one matrix ``[D + 1, K * C]``: a step is two matrix products and a few passes over it."""

    def __init__(
        self, heads: Sequence[HeadSettings], features: Tensor, num_classes: int, init: HeadInit, optimizer: str, momentum: float
    ) -> None:
        self.count, self.classes, self.adamw, self.momentum, self.steps = len(heads), num_classes, optimizer == "adamw", momentum, 0
        columns = []
        for head in heads:
            layer = LinearHead(features.shape[1], num_classes, init=init, generator=torch.Generator().manual_seed(head.seed + 1))
            columns.append(torch.cat([layer.weight.detach().T, layer.bias.detach()[None]]))
        self.weights = torch.cat(columns, dim=1).to(features)
        self.lr, self.decay = (
            torch.tensor(values, dtype=features.dtype, device=features.device).repeat_interleave(num_classes)
            for values in ([head.lr for head in heads], [head.weight_decay for head in heads])
        )
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.gradient, self.room = torch.empty_like(self.weights), torch.empty_like(self.weights)  # fresh memory costs as much as the sums

    def step(self, features: Tensor, labels: Tensor, factor: float) -> None:
        """One optimiser step on a batch ``[B, D + 1]`` at ``factor`` times the peak rates."""
        error = (features @ self.weights).view(len(labels), self.count, self.classes).softmax(dim=-1)
        error -= F.one_hot(labels, self.classes)[:, None]
        torch.mm(features.T, error.flatten(1).div_(len(labels)), out=self.gradient)
        self.steps += 1
        (self._adamw if self.adamw else self._sgd)(self.lr * factor)

    def _adamw(self, lr: Tensor, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.first.lerp_(self.gradient, 1 - beta1)
        self.second.lerp_(self.gradient.square_(), 1 - beta2)
        rate = lr / (1 - beta1**self.steps)
        scale = (1 - beta2**self.steps) ** -0.5
        torch.sqrt(self.second, out=self.room)
        torch.addcmul(eps / rate, self.room, scale / rate, out=self.room)
        self.weights[:-1].mul_(1 - lr * self.decay)
        self.weights.addcdiv_(self.first, self.room, value=-1)

    def _sgd(self, lr: Tensor) -> None:
        self.gradient[:-1].addcmul_(self.weights[:-1], self.decay)
        self.first.mul_(self.momentum).add_(self.gradient)
        self.weights.addcmul_(self.first, -lr)
