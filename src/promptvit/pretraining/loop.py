"""Pre-train a small ViT on the drawn stream: deterministic by seed, resumable, exported as a timm folder."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from promptvit import files
from promptvit.data.proc import stream
from promptvit.pretraining.mae import MAE, decoder_heads

MEAN, STD = 0.5, 0.25  # of the stream, measured; stored with the weights


class PretrainSettings(BaseModel):
    """Everything that decides the weights. Sizes in pixels, rates per step."""

    model_config = ConfigDict(extra="forbid")

    objective: str = Field("mae", pattern="^mae$")
    image_size: int = Field(32, gt=0)
    patch_size: int = Field(4, gt=0)
    width: int = Field(128, gt=0)
    depth: int = Field(12, gt=0)
    heads: int = Field(4, gt=0)
    decoder_width: int = Field(64, gt=0)
    decoder_depth: int = Field(2, gt=0)
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    steps: int = Field(3000, gt=0)
    batch_size: int = Field(256, gt=0)
    lr: float = Field(1.5e-3, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.05, ge=0)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "PretrainSettings":
        for width, heads in ((self.width, self.heads), (self.decoder_width, decoder_heads(self.decoder_width))):
            if width % heads or width % 4:
                raise ValueError(f"width and decoder_width must be multiples of 4 and of their number of heads, got {width} and {heads}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size}")
        return self


def pretrain(settings: PretrainSettings, out: Path, *, resume: bool = False, checkpoint_every: int = 50) -> Path:
    """Run one objective and export the encoder.

    Args:
        settings: what to train; stored in the folder, so ``resume`` refuses other ones.
        out: run folder; ``checkpoint.pt``, ``losses.json``, ``loss.png`` and ``export/`` appear in it.
        resume: go on from ``checkpoint.pt`` if it is there.
        checkpoint_every: steps between checkpoints.

    Returns:
        The exported folder: ``config.json`` (timm's layout) and ``model.safetensors`` (half precision).

    Raises:
        FileExistsError: ``out`` holds a run and ``resume`` is false.
        ValueError: ``out`` holds a run with other settings.
    """
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"out: {out} already holds a pre-training run; pass --resume to go on with it, or choose another folder")
    model = _build(settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(decay, lr=settings.lr, betas=(0.9, 0.95))
    losses: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings.model_dump():
            raise ValueError(f"out: {out} holds a run with other settings: {state['settings']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"]

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(settings.objective, total=settings.steps, completed=len(losses))
        for step in range(len(losses), settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _schedule(step, settings)
            loss = _step(model, settings, step)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"pre-training diverged at step {step}: loss {losses[-1]}; lower lr (now {settings.lr})")
            progress.update(bar, advance=1, description=f"{settings.objective} loss {losses[-1]:.3f}")
            if (step + 1) % checkpoint_every == 0 or step + 1 == settings.steps:
                state = {
                    "settings": settings.model_dump(),
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "losses": losses,
                }
                with files.atomic(checkpoint) as temporary:
                    torch.save(state, temporary)
    files.write_json(out / "losses.json", [round(value, 5) for value in losses])
    _plot(losses, settings, out / "loss.png")
    return export(model.encoder, settings, out / "export")


def _build(settings: PretrainSettings) -> MAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder: Any = VisionTransformer(**_architecture(settings), norm_layer=partial(nn.LayerNorm, eps=1e-6))
        return MAE(encoder, settings.mask_ratio, settings.decoder_width, settings.decoder_depth)


def _architecture(settings: PretrainSettings) -> dict[str, Any]:
    return {
        "img_size": settings.image_size,
        "patch_size": settings.patch_size,
        "embed_dim": settings.width,
        "depth": settings.depth,
        "num_heads": settings.heads,
        "num_classes": 0,
    }


def _schedule(step: int, settings: PretrainSettings) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warm = settings.warmup * settings.steps
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (settings.steps - warm)))


def _step(model: MAE, settings: PretrainSettings, step: int) -> Tensor:
    """Loss of one step; images and masks are a function of (seed, step), so a resumed run sees the same ones."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    images = stream.draw_batch(generator, settings.batch_size, settings.image_size)
    return model((images - MEAN) / STD, generator)


def export(encoder: VisionTransformer, settings: PretrainSettings, folder: Path) -> Path:
    """Write ``encoder`` as a folder that timm and :func:`promptvit.load_backbone` read."""
    config = {
        "architecture": "vit_base_patch16_224",  # only names the family; model_args hold every size
        "model_args": _architecture(settings),
        "pretrained_cfg": {
            "tag": settings.objective,
            "input_size": [3, settings.image_size, settings.image_size],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": 0,
        },
        "promptvit": {"settings": settings.model_dump(), "stream_version": stream.VERSION},
    }
    files.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    with files.atomic(folder / "model.safetensors") as temporary:
        save_file({key: value.half().contiguous() for key, value in encoder.state_dict().items()}, temporary)
    return folder


def _plot(losses: list[float], settings: PretrainSettings, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, linewidth=0.6, alpha=0.4, color="tab:blue", label="per step")
    window = max(1, len(losses) // 50)
    means = [sum(losses[i : i + window]) / len(losses[i : i + window]) for i in range(0, len(losses), window)]
    axes.plot([i + window / 2 for i in range(0, len(losses), window)], means, color="tab:blue", label=f"mean of {window}")
    axes.set(xlabel="step", ylabel="loss", title=f"{settings.objective} pre-training, seed {settings.seed}")
    axes.legend()
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
