"""Pre-train a small ViT on the drawn stream: deterministic by seed, resumable, on one process or several."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from promptvit import files, locks, processes, states
from promptvit.pretraining.export import export_folder
from promptvit.pretraining.mae import MAE
from promptvit.pretraining.mocov3 import MoCoV3
from promptvit.pretraining.objective import Objective, PretrainSettings
from promptvit.pretraining.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {"mae": MAE, "mocov3": MoCoV3, "supervised": Supervised}


def pretrain(settings: PretrainSettings, out: Path, *, resume: bool = False, checkpoint_every: int = 20) -> Path:
    """Run one objective and export the encoder.

    On a GPU it runs in bfloat16 and draws the images there. Under ``torchrun`` the processes share each batch.

    Args:
        settings: what to train (``MAESettings`` and so on); stored in the folder, so ``resume`` refuses other ones.
        out: run folder; ``checkpoint.pt``, ``losses.json``, ``loss.png``, the weights in the layout of the original release, and
            ``export/`` appear in it.
        resume: go on from ``checkpoint.pt`` if it is there.
        checkpoint_every: steps between checkpoints, 1 or more.

    Returns:
        The exported folder: ``config.json`` (timm's layout) and ``model.safetensors`` (half precision).

    Raises:
        FileExistsError: ``out`` holds a run and ``resume`` is false.
        ValueError: ``out`` holds a run with other settings or a damaged checkpoint, another process writes to it, the processes
            cannot share a batch evenly, or ``checkpoint_every`` is out of range.
        FloatingPointError: the loss is no longer a number.
    """
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every: must be 1 or more, got {checkpoint_every}")
    if (out / "checkpoint.pt").exists() and not resume:
        raise FileExistsError(f"out: {out} already holds a pre-training run; pass --resume to go on with it, or choose another folder")
    run = Run(settings)
    with locks.owned(out, "run") if run.accelerator.is_main_process else nullcontext():
        run.restore(out)
        run.fit(out, checkpoint_every)
        return run.finish(out)


class Run:
    """What changes while an objective is trained: its weights, the optimiser and the losses so far."""

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings = settings
        precision = "bf16" if torch.cuda.is_available() else "no"
        self.accelerator = processes.join(precision, cpu=not torch.accelerator.is_available())
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if settings.batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the {world} processes, got {settings.batch_size}")
        share = settings.batch_size // world
        self.rows = slice(rank * share, (rank + 1) * share)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.objective = OBJECTIVES[settings.objective](settings)
        self.model, self.optimizer = self.accelerator.prepare(self.objective, _optimizer(self.objective, settings))
        self.losses: list[float] = []

    def fit(self, out: Path, checkpoint_every: int) -> None:
        """The steps that are left."""
        settings = self.settings
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.accelerator.is_main_process) as progress:
            bar = progress.add_task(settings.objective, total=settings.steps, completed=len(self.losses))
            while len(self.losses) < settings.steps:
                loss = self.step()
                progress.update(bar, advance=1, description=f"{settings.objective} loss {loss:.3f}")
                if len(self.losses) % checkpoint_every == 0 or len(self.losses) == settings.steps:
                    self.save(out)

    def step(self) -> float:
        """One step; all randomness is a function of (seed, step), so a resumed run sees what an uninterrupted one sees."""
        settings, done = self.settings, len(self.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * _schedule(done, settings)
        generator = torch.Generator(self.accelerator.device).manual_seed(settings.seed * 1_000_003 + done)
        loss = self.model(*self.objective.draw(generator, self.rows))
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.after_step((done + 1) / settings.steps)
        self.losses.append(self.accelerator.reduce(loss.detach(), "mean").item())
        if not math.isfinite(self.losses[-1]):
            raise FloatingPointError(f"pre-training diverged at step {done}: loss {self.losses[-1]}; lower lr (now {settings.lr})")
        return self.losses[-1]

    def save(self, out: Path) -> None:
        """Everything that :meth:`restore` needs, in one step, and last: what is resumed leaves no other file behind."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "settings": self.settings.model_dump(),
            "model": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }
        files.write_json(out / "losses.json", [round(value, 5) for value in self.losses])
        states.save(out / "checkpoint.pt", state)

    def restore(self, out: Path) -> None:
        """Go back to the last checkpoint, if there is one."""
        path = out / "checkpoint.pt"
        if (state := states.load(path)) is None:
            return
        if "settings" in state and state["settings"] != self.settings.model_dump():
            raise ValueError(f"out: {out} holds a run with other settings: {state['settings']}")
        with states.fitting(path):
            self.objective.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.losses = state["losses"]

    def finish(self, out: Path) -> Path:
        """Write the pictures and the weights."""
        folder = out / "export"
        if self.accelerator.is_main_process:
            _plot(self.losses, self.settings, out / "loss.png")
            self.objective.publish(out, len(self.losses))
            export_folder(self.objective.encoder, self.settings, folder)
        self.accelerator.wait_for_everyone()
        return folder


def _optimizer(objective: Objective, settings: PretrainSettings) -> torch.optim.Optimizer:
    """AdamW; no decay on biases, norms and gains."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, settings.beta2))


def _schedule(step: int, settings: PretrainSettings) -> float:
    """Factor in (0, 1] of the peak: linear warm-up, then half a cosine to zero."""
    warm = settings.warmup * settings.steps
    if step < warm:
        return min(1.0, (step + 1) / warm)  # the warm-up may end in the middle of a step
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (settings.steps - warm)))


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
