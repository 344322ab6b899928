"""The training loop: one run from settings to a scored adapter. Read it top to bottom."""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from promptvit import processes, states
from promptvit.analysis import similarity
from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import load_backbone
from promptvit.data import Dataset, SegmentationDataset
from promptvit.model import PromptedModel, create_model
from promptvit.training.classification import Classification
from promptvit.training.distributed import PeerLost, average, sum_gradients
from promptvit.training.optimization import build_optimizer, rate_factor, set_rate
from promptvit.training.progress import Bar
from promptvit.training.run import Epoch, RunFolder
from promptvit.training.segmentation import Segmentation
from promptvit.training.settings import TrainSettings, resolve
from promptvit.training.task import Scores, Task

log = logging.getLogger(__name__)

RECORDED = 32  # images at most that --record looks at
TASKS: dict[str, type[Task]] = {"classification": Classification, "segmentation": Segmentation}


class Diverged(FloatingPointError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class RunResult:
    """What :func:`train` returns: where everything lies, the content of ``result.json``, and the tuned model."""

    run_dir: Path
    result: dict[str, Any]
    model: PromptedModel


def train(
    *, resume: bool = False, stop_after: int | None = None, loaded_backbone: Backbone | None = None, **settings: Any
) -> RunResult:
    """Tune a method on a data set, score it once on the test split, and write the run folder.

    Started by ``torchrun`` or ``accelerate launch``, all processes share the run; any number of them gives the same numbers, up to the
    order of summation. The first one writes.

    Args:
        resume: go on from the folder's last finished epoch; the numbers equal those of an uninterrupted run.
        stop_after: pause after this many epochs of the run, on the schedule of all of them: the state is saved, nothing is scored and no
            ``result.json`` written, the result's status is ``stopped``; ``resume`` goes on.
        loaded_backbone: use this backbone instead of loading ``settings["backbone"]`` again.
        **settings: see :class:`TrainSettings`; other keys are options of the method.

    Raises:
        ValueError: a bad setting or data set, a damaged checkpoint, or a run folder that another process writes to.
        FileExistsError, PermissionError: a run folder that cannot be used.
        Diverged: the loss became NaN or infinite; the best adapter until then is kept.
        PeerLost: another process of the run died; the last finished epoch is kept.
    """
    chosen = resolve(**settings)
    accelerator = processes.join(chosen.precision)
    dataset = TASKS[chosen.task].load(chosen)
    chosen = chosen.completed(dataset)
    if chosen.train_on == "train+val":
        splits: dict[str, Any] = dataset.splits
        splits["train"] = splits["train"].joined(splits["val"])
    backbone = loaded_backbone or load_backbone(
        chosen.backbone, pretrained=chosen.pretrained, arch=chosen.arch, image_size=chosen.image_size, seed=chosen.seed
    )
    preprocessing = backbone.preprocessing.replaced(chosen.normalization, chosen.resize, chosen.interpolation, chosen.crop_pct)
    model = create_model(
        backbone.to(accelerator.device), chosen.method, len(dataset.classes), classes=dataset.classes, head=chosen.head,
        head_options=chosen.head_options, head_init=chosen.head_init, preprocessing=preprocessing, seed=chosen.seed, **chosen.options,
    )
    run = Run(chosen, model, dataset, accelerator)
    folder = RunFolder(chosen, writes=accelerator.is_main_process)
    with folder.opened(resume), torch.random.fork_rng():
        accelerator.wait_for_everyone()
        log.setLevel(logging.NOTSET if accelerator.is_main_process else logging.WARNING)
        for note in dataset.notes:
            log.info(note)
        own = preprocessing == backbone.preprocessing
        log.info("preprocessing (%s): %s", "the weights' own" if own else "not the weights' own", preprocessing)
        saved = folder.load_state()
        if saved is None:
            run.start_from_data()
        else:
            with states.fitting(folder.state):
                run.restore(saved)
        try:
            run.fit(folder, stop_after)
        except Diverged:
            run.finish(folder, status="diverged")
            raise
        except PeerLost as error:
            raise PeerLost(f"{error}; {len(run.history)} epochs are saved in {folder.path}; start all again with --resume") from None
        if len(run.history) < run.epochs:
            return RunResult(folder.path, {"status": "stopped", "epochs": len(run.history), "settings_hash": chosen.hash}, model)
        return RunResult(folder.path, run.finish(folder, status="ok"), model)


class Run:
    """What changes while a run trains: the model, its optimiser, the history and the best weights so far."""

    def __init__(
        self, settings: TrainSettings, model: PromptedModel, dataset: Dataset | SegmentationDataset, accelerator: Accelerator
    ) -> None:
        self.settings, self.model, self.dataset, self.accelerator = settings, model, dataset, accelerator
        self.optimizer = accelerator.prepare(build_optimizer(model, settings))
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_value, self.best_epoch = -1.0, 0
        self.records: list[dict[str, Any]] = []
        self.task = TASKS[settings.task](settings, model, dataset, accelerator)
        self.images = len(dataset.splits["train"])
        self.epoch_steps = math.ceil(self.images / settings.batch_size)
        self.steps = settings.total_steps(self.epoch_steps)
        self.epochs = math.ceil(self.steps / self.epoch_steps)

    def fit(self, folder: RunFolder, stop_after: int | None = None) -> None:
        """Train the epochs that are left, or those up to ``stop_after``, saving the state after each."""
        settings = self.settings
        title = f"{settings.method} on {settings.data}"
        quiet = not self.accelerator.is_main_process
        if settings.record and not self.history:
            self.record(0)
        with Bar(title, self.epochs, self.images, done=len(self.history), quiet=quiet) as bar, folder.tensorboard() as board:
            for epoch in range(len(self.history), min(self.epochs, stop_after or self.epochs)):
                started = time.perf_counter()
                loss, accuracy, lr = self.train_epoch(epoch, bar)
                average(self.accelerator, self.model.head.buffers())
                due = (epoch + 1) % settings.validate_every == 0 or epoch + 1 == self.epochs
                scores = self.task.score("val") if due and settings.train_on == "train" else None
                val = dict.fromkeys(self.task.measures) | (scores.measures if scores else {})
                self.history.append(Epoch(epoch + 1, loss, accuracy, val, lr, round(time.perf_counter() - started, 3)))
                value = self.criterion(epoch, scores) if due or settings.select == "last" else None
                if value is not None and value > self.best_value:
                    self.best, self.best_value, self.best_epoch = self.trained(), value, epoch
                if settings.record:
                    self.record(epoch + 1)
                folder.save_state(self.state(), self.history)
                board(self.history[-1])
                bar.epoch(epoch + 1, scores.value if scores else None)

    def criterion(self, epoch: int, val: Scores | None) -> float | None:
        """What the weights after this epoch are kept for, if it is the highest so far."""
        match self.settings.select:
            case "best":
                return val.value if val else None
            case "last":
                return float(epoch)
            case "best-on-test":
                return self.task.score("test").value

    def train_epoch(self, epoch: int, bar: Bar) -> tuple[float, float, float]:
        """One pass over the training split, or what is left of the run's steps: mean loss, accuracy, last learning rate."""
        settings, accelerator, task = self.settings, self.accelerator, self.task
        # dropout is a function of (seed, epoch), and of the process
        torch.manual_seed(settings.seed * 1_000_003 + epoch + (accelerator.process_index << 40))
        self.model.train()
        total = torch.zeros(4, dtype=torch.float64)  # loss, images, right answers, of how many
        lr, learns = 0.0, [parameter for _, parameter in self.model.trainable_parameters()]
        for step, (inputs, target) in zip(range(self.steps - epoch * self.epoch_steps), task.batches(epoch), strict=False):
            lr = set_rate(self.optimizer, rate_factor(settings, epoch, step, self.epoch_steps))
            images = min(settings.batch_size, self.images - step * settings.batch_size)
            part = torch.zeros(3)  # of the batch's mean loss and of its answers, as far as they are this process's
            if len(target):
                with accelerator.autocast():
                    outputs = task.outputs(inputs)
                    loss = task.loss(outputs, target) * (len(target) / images)
                accelerator.backward(loss)
                part = torch.tensor([loss.item(), *task.right(outputs, target)])
            loss_value, right, answers = sum_gradients(accelerator, learns, beside=part).tolist()
            if not math.isfinite(loss_value):
                raise Diverged(
                    f"the loss became {loss_value} in epoch {epoch + 1}, step {step + 1}; try a lower lr (now {settings.lr:g}). "
                    f"Best adapter so far: {Path(settings.out) / 'adapter' if self.best else 'none'}"
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.model.method.project()
            total += torch.tensor([loss_value * images, images, right, answers])
            bar.batch(images, *_means(total))
        return *_means(total), lr

    def finish(self, folder: RunFolder, status: str) -> dict[str, Any]:
        """Put the selected weights back, score them once on the split that is asked for, write the adapter and ``result.json``."""
        settings, model = self.settings, self.model
        result: dict[str, Any] = {
            "method": settings.method, "reading": model.method.reading,
            "backbone": model.backbone.name, "fingerprint": model.backbone.fingerprint,
            "dataset": self.dataset.name, "seed": settings.seed, "data_seed": settings.data_seed,
            "split": settings.score, "train_on": settings.train_on, "select": settings.select,
        }
        names, scores = self.task.measures, None
        found: dict[str, float | None] = dict.fromkeys([*names, *(f"val_{name}" for name in names)])
        if self.best:
            self.put(self.best)
            found |= {f"val_{name}": value for name, value in self.history[self.best_epoch].val.items()}
            if status == "ok":
                scores = self.task.score(settings.score)
                found |= scores.measures
            if self.accelerator.is_main_process:
                scored = {"dataset": self.dataset.name, "split": settings.score, "select": settings.select}
                model.save_pretrained(folder.adapter, metrics=scored | found)
                if status == "ok":
                    self.task.picture(settings.score, folder.path)
        seconds = sum(epoch.seconds for epoch in self.history)
        images = min(len(self.history) * self.images, self.steps * settings.batch_size)
        result |= found
        result |= {
            self.task.per_class: scores.per_class(model.classes) if scores else None,
            "num_trainable": model.num_trainable,
            "num_total": model.num_total,
            "epochs": len(self.history),
            "train_seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 2) if seconds else None,
            "settings_hash": settings.hash,
            "status": status,
        }
        folder.write_result(result)
        model.eval()
        return result

    def start_from_data(self) -> None:
        """Prompts that start as token prototypes see training images before the first step."""
        method = self.model.method
        if method.needs_data:
            method.initialize(self.model.backbone, self.task.plain(), torch.Generator().manual_seed(self.settings.seed))

    def record(self, epoch: int) -> None:
        """Keep how alike prompts and patch tokens are now, on the same few training images in every epoch."""
        alike = similarity(self.model, next(iter(self.task.plain()))[:RECORDED])
        self.records.append({"epoch": epoch, **alike.rows()})

    def trained(self) -> dict[str, Tensor]:
        """A copy of everything that training changes."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.learned().items()}

    @torch.no_grad()
    def put(self, tensors: dict[str, Tensor]) -> None:
        """The reverse of :meth:`trained`."""
        for name, tensor in self.model.learned().items():
            tensor.copy_(tensors[name])

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs."""
        return {
            "trained": self.trained(), "optimizer": self.optimizer.state_dict(), "best": self.best,
            "best_value": self.best_value, "best_epoch": self.best_epoch, "records": self.records,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved epoch."""
        self.put(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_value, self.best_epoch = state["best"], state["best_value"], state["best_epoch"]
        self.records = state.get("records", [])
        self.history = [Epoch(**line) for line in state["history"]]


def _means(total: Tensor) -> tuple[float, float]:
    """Mean loss and share of right answers from their sums."""
    return float(total[0] / total[1]), float(total[2] / total[3].clamp(min=1))
