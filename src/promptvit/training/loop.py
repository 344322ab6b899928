"""The training loop: one run from settings to a scored adapter. Read it top to bottom."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import load_backbone
from promptvit.data import Dataset, batches, load_dataset
from promptvit.data.loader import places
from promptvit.model import PromptedModel, create_model
from promptvit.training.evaluation import Scores, evaluate
from promptvit.training.optimization import build_optimizer, rate_factor, set_rate
from promptvit.training.probe import extract, inputs_are_fixed
from promptvit.training.progress import Bar
from promptvit.training.run import Epoch, RunFolder
from promptvit.training.settings import TrainSettings, resolve

log = logging.getLogger(__name__)


class Diverged(FloatingPointError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class RunResult:
    """What :func:`train` returns: where everything lies, the content of ``result.json``, and the tuned model."""

    run_dir: Path
    result: dict[str, Any]
    model: PromptedModel


def train(*, resume: bool = False, loaded_backbone: Backbone | None = None, **settings: Any) -> RunResult:
    """Tune a method on a data set, score it once on the test split, and write the run folder.

    Args:
        resume: go on from the folder's last finished epoch; the numbers equal those of an uninterrupted run.
        loaded_backbone: use this backbone instead of loading ``settings["backbone"]`` again.
        **settings: see :class:`TrainSettings`; other keys are options of the method.

    Raises:
        ValueError: a bad setting or data set. FileExistsError, PermissionError: a run folder that cannot be used.
        Diverged: the loss became NaN or infinite; the best adapter until then is kept.
    """
    chosen = resolve(**settings)
    AcceleratorState._reset_state()  # a process may train more than once, in another precision
    accelerator = Accelerator(mixed_precision=chosen.precision)
    dataset = load_dataset(chosen.data, root=chosen.data_root, data_seed=chosen.data_seed, shots=chosen.shots, strict=chosen.strict)
    chosen = chosen.completed(dataset)
    if chosen.train_on == "train+val":
        dataset.splits["train"] = dataset.splits["train"].joined(dataset.splits["val"])
    backbone = loaded_backbone or load_backbone(
        chosen.backbone, pretrained=chosen.pretrained, arch=chosen.arch, image_size=chosen.image_size, seed=chosen.seed
    )
    preprocessing = backbone.preprocessing.replaced(chosen.normalization, chosen.resize, chosen.interpolation, chosen.crop_pct)
    model = create_model(
        backbone.to(accelerator.device), chosen.method, len(dataset.classes), classes=dataset.classes, head_init=chosen.head_init,
        preprocessing=preprocessing, seed=chosen.seed, **chosen.options,
    )
    folder = RunFolder(chosen, resume)
    for note in dataset.notes:
        log.info(note)
    own = preprocessing == backbone.preprocessing
    log.info("preprocessing (%s): %s", "the weights' own" if own else "not the weights' own", preprocessing)
    with torch.random.fork_rng():
        run = Run(chosen, model, dataset, accelerator)
        saved = folder.load_state()
        run.restore(saved) if saved else run.start_from_data()
        try:
            run.fit(folder)
        except Diverged:
            run.finish(folder, status="diverged")
            raise
        return RunResult(folder.path, run.finish(folder, status="ok"), model)


class Run:
    """What changes while a run trains: the model, its optimiser, the history and the best weights so far."""

    def __init__(self, settings: TrainSettings, model: PromptedModel, dataset: Dataset, accelerator: Accelerator) -> None:
        self.settings, self.model, self.dataset, self.accelerator = settings, model, dataset, accelerator
        self.optimizer = accelerator.prepare(build_optimizer(model, settings))
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_value, self.best_epoch = -1.0, 0
        self.features: dict[str, Tensor] = {}  # by split, where one pass over the images is enough

    def fit(self, folder: RunFolder) -> None:
        """Train the epochs that are left, saving the state after each."""
        settings, images = self.settings, len(self.dataset.splits["train"])
        title = f"{settings.method} on {settings.data}"
        with Bar(title, settings.epochs, images, done=len(self.history)) as bar, folder.tensorboard() as board:
            for epoch in range(len(self.history), settings.epochs):
                started = time.perf_counter()
                loss, accuracy, lr = self.train_epoch(epoch, bar)
                due = (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs
                val_accuracy = self.score("val").accuracy if due and settings.train_on == "train" else None
                self.history.append(Epoch(epoch + 1, loss, accuracy, val_accuracy, lr, round(time.perf_counter() - started, 3)))
                value = self.criterion(epoch, val_accuracy) if due or settings.select == "last" else None
                if value is not None and value > self.best_value:
                    self.best, self.best_value, self.best_epoch = self.trained(), value, epoch
                folder.save_state(self.state(), self.history)
                board(self.history[-1])
                bar.epoch(epoch + 1, val_accuracy)

    def criterion(self, epoch: int, val_accuracy: float | None) -> float | None:
        """What the weights after this epoch are kept for, if it is the highest so far."""
        match self.settings.select:
            case "best":
                return val_accuracy
            case "last":
                return float(epoch)
            case "best-on-test":
                return self.score("test").accuracy

    def train_epoch(self, epoch: int, bar: Bar) -> tuple[float, float, float]:
        """One pass over the training split: mean loss, accuracy, last learning rate."""
        settings, model = self.settings, self.model
        steps = math.ceil(len(self.dataset.splits["train"]) / settings.batch_size)
        torch.manual_seed(settings.seed * 1_000_003 + epoch)  # dropout is a function of (seed, epoch)
        model.train()
        total, right, seen, lr = 0.0, 0, 0, 0.0
        for step, (inputs, labels) in enumerate(self.inputs(epoch)):
            lr = set_rate(self.optimizer, rate_factor(settings, epoch, step, steps))
            with self.accelerator.autocast():
                outputs = (model.head(inputs),) if inputs_are_fixed(settings) else model.outputs(inputs)
                loss = model.method.loss(outputs, labels)
            if not math.isfinite(loss.item()):
                raise Diverged(
                    f"the loss became {loss.item()} in epoch {epoch + 1}, step {step + 1}; try a lower lr (now {settings.lr:g}). "
                    f"Best adapter so far: {Path(settings.out) / 'adapter' if self.best else 'none'}"
                )
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            model.method.project()
            total += loss.item() * len(labels)
            right += int((outputs[0].argmax(dim=-1) == labels).sum())
            seen += len(labels)
            bar.batch(len(labels), total / seen, right / seen)
        return total / seen, right / seen, lr

    def inputs(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch's batches on the device: normalised images, or features where they are fixed; and labels."""
        settings, split, device = self.settings, self.dataset.splits["train"], self.accelerator.device
        features = self.known("train")
        if features is not None:
            labels = torch.tensor(split.labels, dtype=torch.long)
            for rows in map(torch.from_numpy, places(len(split), settings.batch_size, epoch, settings.data_seed)):
                yield features[rows].to(device), labels[rows].to(device)
            return
        loader = batches(
            split, self.model.preprocessing, batch_size=settings.batch_size, epoch=epoch, policy=settings.augment or "none",
            data_seed=settings.data_seed, workers=settings.workers, device=device,
        )
        for batch in loader:
            yield self.model.preprocessing.normalized(batch.images.to(device)), batch.labels.to(device)

    def known(self, split: str) -> Tensor | None:
        """Features of a split where they are fixed, computed once; training in mixed precision sees what it computes."""
        if not inputs_are_fixed(self.settings):
            return None
        if split not in self.features:
            autocast = self.accelerator.autocast if split == "train" else nullcontext
            settings = self.settings
            self.features[split] = extract(
                self.model, self.dataset.splits[split], batch_size=settings.batch_size, workers=settings.workers, autocast=autocast
            )
        return self.features[split]

    def score(self, split: str) -> Scores:
        """The model as it is now on a split."""
        settings = self.settings
        return evaluate(
            self.model, self.dataset.splits[split], batch_size=settings.batch_size, workers=settings.workers, features=self.known(split)
        )

    def finish(self, folder: RunFolder, status: str) -> dict[str, Any]:
        """Put the selected weights back, score them once on the split that is asked for, write the adapter and ``result.json``."""
        settings, model = self.settings, self.model
        result: dict[str, Any] = {
            "method": settings.method, "reading": model.method.reading,
            "backbone": model.backbone.name, "fingerprint": model.backbone.fingerprint,
            "dataset": self.dataset.name, "seed": settings.seed, "data_seed": settings.data_seed,
            "split": settings.score, "train_on": settings.train_on, "select": settings.select,
        }
        scores = val_accuracy = None
        if self.best:
            self.put(self.best)
            val_accuracy = self.history[self.best_epoch].val_accuracy
            if status == "ok":
                scores = self.score(settings.score)
            accuracy = scores.accuracy if scores else None
            metrics = {"split": settings.score, "select": settings.select, "accuracy": accuracy, "val_accuracy": val_accuracy}
            model.save_pretrained(folder.adapter, metrics=metrics)
        seconds = sum(epoch.seconds for epoch in self.history)
        result |= {
            "accuracy": scores.accuracy if scores else None,
            "val_accuracy": val_accuracy,
            "per_class_accuracy": scores.per_class(model.classes) if scores else None,
            "num_trainable": model.num_trainable,
            "num_total": model.num_total,
            "epochs": len(self.history),
            "train_seconds": round(seconds, 3),
            "images_per_second": round(len(self.history) * len(self.dataset.splits["train"]) / seconds, 2) if seconds else None,
            "settings_hash": settings.hash,
            "status": status,
        }
        folder.write_result(result)
        model.eval()
        return result

    def start_from_data(self) -> None:
        """Prompts that start as token prototypes see training images before the first step."""
        method, settings, model = self.model.method, self.settings, self.model
        if not method.needs_data:
            return
        generator = torch.Generator().manual_seed(settings.seed)
        split = self.dataset.splits["train"]
        loader = batches(split, model.preprocessing, batch_size=settings.batch_size, epoch=0, policy="none", data_seed=settings.data_seed)
        images = (model.preprocessing.normalized(batch.images.to(self.accelerator.device)) for batch in loader)
        method.initialize(model.backbone, images, generator)

    def trained(self) -> dict[str, Tensor]:
        """A copy of everything that learns."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.model.trainable_parameters()}

    @torch.no_grad()
    def put(self, tensors: dict[str, Tensor]) -> None:
        """The reverse of :meth:`trained`."""
        for name, parameter in self.model.trainable_parameters():
            parameter.copy_(tensors[name])

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs."""
        return {
            "trained": self.trained(), "optimizer": self.optimizer.state_dict(), "best": self.best,
            "best_value": self.best_value, "best_epoch": self.best_epoch,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved epoch."""
        self.put(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_value, self.best_epoch = state["best"], state["best_value"], state["best_epoch"]
        self.history = [Epoch(**line) for line in state["history"]]
