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
        grid: {lr: [5.0, 0.5], weight_decay: [0.001, 0.0]}          # or search: see space.py
        tasks: {vtab/cifar: {num_prompts: 10}}
    quirks: {schedule: epoch}        # what the authors' code does and a sound run should not: only with ``faithful``

A task's own values win over the method's, those over ``settings``; quirks win over all. Where a grid searches a setting, its value under
``settings`` is what a single run takes (``promptvit train --recipe``).
"""

import logging
import math
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from promptvit.config import checked
from promptvit.errors import shown, unknown
from promptvit.experiments import suites
from promptvit.experiments.space import Axis, Search, combinations
from promptvit.plain import read_yaml

log = logging.getLogger(__name__)

RECIPES = "promptvit.recipes"
RATES = ("lr", "head_lr")  # what ``reference_batch`` scales


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
        search: choose from these and other values without trying them all, or not all to the end; see :class:`Search`.
        tasks: settings of single data sets; a setting given here is not searched there.
    """

    model_config = ConfigDict(extra="forbid")

    method: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    search: Search | None = None
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_a_setting_once(self) -> "Entry":
        for key in self.grid.keys() & (self.search.space if self.search else {}).keys():
            raise ValueError(f"{key} is in grid and in search.space; leave it out of one of them")
        return self


class Claim(BaseModel):
    """A statement that the table puts to the test: row ``better`` scores higher than row ``than``.

    Attributes:
        tasks: on these data sets; None: on all of the spec's.
        source: who says so.
    """

    model_config = ConfigDict(extra="forbid")

    better: str
    than: str
    tasks: list[str] | None = None
    source: str = ""


class Spec(BaseModel):
    """A sweep or recipe; see the top of this file.

    Attributes:
        claims: by name; judged by ``promptvit claims``, without any part in what is run.
        search_seed: seed of the grid's runs.
        final: ``train+val`` joins both splits for the final runs (VTAB-1k: the 1,000), which then keep their last epoch.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    backbone: str
    tasks: str | Annotated[list[str], Field(min_length=1)]
    methods: dict[str, Entry] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default=[0], min_length=1)
    search_seed: int = Field(0, ge=0)
    final: Literal["train", "train+val"] = "train"
    reference_batch: int | None = Field(None, ge=1)
    quirks: dict[str, Any] = Field(default_factory=dict)
    published: Published | None = None
    claims: dict[str, Claim] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_each_seed_once(self) -> "Spec":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each may be given once, one run would count as several; got {shown(self.seeds)}")
        return self

    @model_validator(mode="after")
    def _claims_name_what_there_is(self) -> "Spec":
        for name, claim in self.claims.items():
            for label in (claim.better, claim.than):
                if label not in self.methods:
                    raise ValueError(f"claims, {name}: {unknown('method of this file', label, self.methods)}")
            for task in claim.tasks or []:
                if task not in self.task_names():
                    raise ValueError(f"claims, {name}: {unknown('data set of this file', task, self.task_names())}")
        return self

    def task_names(self) -> list[str]:
        """The data sets, suites expanded."""
        return suites.expand(self.tasks)

    def settings_of(self, label: str, task: str, /, *, faithful: bool = False, **chosen: Any) -> dict[str, Any]:
        """Settings of one run of ``label`` on ``task``, for :func:`promptvit.train`; rates are as the optimiser gets them.

        Args:
            faithful: with the authors' quirks.
            **chosen: a point of the grid, or other settings (also the one called ``task``) that win over the data set's.

        Raises:
            ValueError: a label that the spec does not have.
        """
        if label not in self.methods:
            raise ValueError(unknown(f"method in {self.name}", label, self.methods))
        entry = self.methods[label]
        given = {**self.settings, **entry.settings, **entry.tasks.get(task, {}), **chosen, **(self.quirks if faithful else {})}
        given = {"backbone": self.backbone, "method": entry.method or label, "data": task, **given}
        if self.reference_batch:
            scale = self._number(given, "batch_size", 32) / self.reference_batch
            given |= {rate: self._number(given, rate) * scale for rate in RATES if given.get(rate) is not None}
        return given

    def _number(self, given: dict[str, Any], key: str, default: float = 0.0) -> float:
        value = given.get(key, default)
        try:
            return float(value)  # YAML reads 1e-3 as a word
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"spec {shown(self.name)}: {key}: expected a number, got {shown(value)}") from None

    def single_run(self, given: dict[str, Any], *, faithful: bool = False) -> dict[str, Any]:
        """Settings of one final run outside a sweep: on the final training data, with the first seed; what ``given`` says wins.

        Args:
            given: settings by name. ``method`` picks a method of the spec, ``data`` a data set (also one that the spec does not have, which
                then gets the common settings); both may be left out where the spec has only one. A given rate is not scaled.

        Raises:
            ValueError: ``method`` or ``data`` is needed, or a method that the spec does not have.
        """
        methods, tasks = list(self.methods), self.task_names()
        if "data" not in given and len(tasks) > 1:
            raise ValueError(f"data: missing; {self.name} is for {', '.join(tasks)}")
        if "method" not in given and len(methods) > 1:
            raise ValueError(f"method: missing; {self.name} has {', '.join(methods)}")
        label, task = given.get("method", methods[0]), given.get("data", tasks[0])
        others = {key: value for key, value in given.items() if key not in ("method", "data")}
        settings = self.settings_of(label, task, faithful=faithful, **others)
        select = "last" if self.final == "train+val" else "best"
        settings = {"train_on": self.final, "select": select, "seed": self.seeds[0], **settings, **others}
        searched = [f"{key} {settings.get(key, 'left out')}" for key in self.axes(label, task) if key not in others]
        own = "" if task in tasks else ", which it has no values for: the common ones"
        fixed = f"; fixed here, searched by a sweep: {', '.join(searched)}" if searched else ""
        log.info("recipe %s: %s on %s%s; trained on %s%s", self.name, label, task, own, settings["train_on"], fixed)
        return settings

    def points(self, label: str, task: str) -> list[dict[str, Any]]:
        """The grid of ``label`` on ``task``: every combination, lowest rates first, so that ties go to the smaller rate.

        Of a range that a search draws from: its two ends.
        """
        return combinations(self.axes(label, task))

    def axes(self, label: str, task: str) -> dict[str, Axis]:
        """What is chosen for ``label`` on ``task``: values of the grid, and values and ranges of the search, by setting."""
        entry = self.methods[label]
        grid = {key: sorted(values) if _numbers(values) else values for key, values in entry.grid.items()}
        space = entry.search.space if entry.search else {}
        return {key: axis for key, axis in (grid | space).items() if key not in entry.tasks.get(task, {})}


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
    file: Path | Traversable = path
    if not path.is_file():
        name = path.name.removesuffix(".yaml")
        if name not in list_recipes():
            raise ValueError(f"no file {path}, and {unknown('recipe', name, list_recipes())}")
        file = resources.files(RECIPES).joinpath(f"{name}.yaml")
    try:
        values = read_yaml(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping with name, backbone, tasks and methods, got {type(values).__name__}")
    try:
        if isinstance(values.get("methods"), dict):  # each with messages of its own, which name the nearest key
            values["methods"] = {label: checked(Entry, own or {}, f"key of {label}") for label, own in values["methods"].items()}
        return checked(Spec, values, "key")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
