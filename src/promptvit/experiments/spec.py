"""What a sweep runs and what a recipe says: one YAML schema for both. A recipe is a spec of one method.

    name: vpt-deep-vtab-sup
    backbone: vit_base_patch16_224.augreg_in21k
    tasks: vtab                      # a suite, or a list of data sets
    seeds: [42, 44, 82, 100, 800]    # of the final runs
    final: train+val                 # what the final runs train on
    settings: {epochs: 100, select: last}
    reference_batch: 256             # given rates are for batches of this size
    methods:
      vpt-deep:
        grid: {lr: [5.0, 0.5], weight_decay: [0.001, 0.0]}
        tasks: {vtab/cifar: {num_prompts: 10}}
    quirks: {schedule: epoch}        # what the authors' code does and a sound run should not: only with ``faithful``

A task's own values win over the method's, those over ``settings``; quirks win over all.
"""

import itertools
import math
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from promptvit.config import checked
from promptvit.errors import unknown
from promptvit.experiments import suites

RECIPES = "promptvit.recipes"


class Published(BaseModel):
    """Means in percent as a paper prints them.

    Attributes:
        means: by group, and ``mean`` over what the paper averages over.
        source: the paper, its table, and how certain the reading is.
    """

    model_config = ConfigDict(extra="forbid")

    means: dict[str, float]
    source: str


class Entry(BaseModel):
    """One row of a table: a method with its settings.

    Attributes:
        method: its name; default: the entry's own label.
        settings: settings and options, see :class:`TrainSettings`.
        grid: values to choose from on validation, by setting.
        tasks: settings of single data sets; a setting given here is not searched there.
    """

    model_config = ConfigDict(extra="forbid")

    method: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Spec(BaseModel):
    """A sweep or recipe; see the top of this file.

    Attributes:
        search_seed: seed of the grid's runs.
        final: ``train+val`` joins both splits for the final runs (VTAB-1k: the 1,000), which then keep their last epoch.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    backbone: str
    tasks: str | list[str]
    methods: dict[str, Entry] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default=[0], min_length=1)
    search_seed: int = Field(0, ge=0)
    final: Literal["train", "train+val"] = "train"
    reference_batch: int | None = Field(None, ge=1)
    quirks: dict[str, Any] = Field(default_factory=dict)
    published: Published | None = None

    def task_names(self) -> list[str]:
        """The data sets, suites expanded."""
        return suites.expand(self.tasks)

    def settings_of(self, label: str, task: str, *, faithful: bool = False, **chosen: Any) -> dict[str, Any]:
        """Settings of one run of ``label`` on ``task``, for :func:`promptvit.train`; rates are as the optimiser gets them.

        Args:
            faithful: with the authors' quirks.
            **chosen: a point of the grid.

        Raises:
            ValueError: a label that the spec does not have.
        """
        if label not in self.methods:
            raise ValueError(unknown(f"method in {self.name}", label, self.methods))
        entry = self.methods[label]
        given = {**self.settings, **entry.settings, **chosen, **entry.tasks.get(task, {}), **(self.quirks if faithful else {})}
        given = {"backbone": self.backbone, "method": entry.method or label, "data": task, **given}
        if self.reference_batch:
            scale = given.get("batch_size", 32) / self.reference_batch
            given |= {rate: given[rate] * scale for rate in ("lr", "head_lr") if given.get(rate) is not None}
        return given

    def points(self, label: str, task: str) -> list[dict[str, Any]]:
        """The grid of ``label`` on ``task``: every combination, lowest rates first, so that ties go to the smaller rate."""
        entry = self.methods[label]
        axes = {key: sorted(values) if _numbers(values) else values for key, values in entry.grid.items()}
        axes = {key: values for key, values in axes.items() if key not in entry.tasks.get(task, {})}
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package; :func:`read_spec` reads them."""
    return sorted(file.name.removesuffix(".yaml") for file in resources.files(RECIPES).iterdir() if file.name.endswith(".yaml"))


def read_spec(name_or_path: str | Path) -> Spec:
    """Read a YAML file, or a recipe of the package by name (``recipes/NAME.yaml`` and ``NAME`` both work).

    Raises:
        ValueError: neither exists, or a file that is no spec.
    """
    path = Path(name_or_path)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        name = path.name.removesuffix(".yaml")
        if name not in list_recipes():
            raise ValueError(f"no file {path}, and {unknown('recipe', name, list_recipes())}")
        text = resources.files(RECIPES).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping with name, backbone, tasks and methods, got {type(values).__name__}")
    try:
        return checked(Spec, values, "entry")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
