"""Suites: which data sets a paper's table has, in which groups."""

from promptvit.data import list_datasets
from promptvit.errors import unknown

_GROUPED: dict[str, dict[str, tuple[str, ...]]] = {
    "fgvc": {"FGVC": ("cub", "nabirds", "flowers", "dogs", "cars")},
    "vtab": {
        "Natural": ("cifar", "caltech101", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn", "sun397"),
        "Specialized": ("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy"),
        "Structured": (
            "clevr_count", "clevr_dist", "dmlab", "kitti", "dsprites_loc", "dsprites_ori", "smallnorb_azi", "smallnorb_ele",
        ),
    },
    "hta": {"HTA": ("cifar10", "cifar100", "dtd", "food101", "gtsrb", "svhn")},
}


def suites() -> list[str]:
    """Names that :func:`groups` accepts."""
    return sorted(_GROUPED)


def groups(suite: str) -> dict[str, tuple[str, ...]]:
    """Data set names of ``suite``, by group, in the papers' order.

    Raises:
        ValueError: an unknown suite.
    """
    if suite not in _GROUPED:
        raise ValueError(unknown("suite", suite, suites()))
    return {group: tuple(f"{suite}/{name}" for name in names) for group, names in _GROUPED[suite].items()}


def group_of(dataset: str) -> tuple[str, str] | None:
    """(suite, group) of a data set, or None where it belongs to none."""
    suite = dataset.split("/")[0]
    if suite not in _GROUPED:
        return None
    return next(((suite, group) for group, names in groups(suite).items() if dataset in names), None)


def expand(tasks: str | list[str]) -> list[str]:
    """A suite's name, or a list of data sets and suites, as data set names without repeats.

    Raises:
        ValueError: a name that is neither.
    """
    names: list[str] = []
    for task in [tasks] if isinstance(tasks, str) else tasks:
        if task in _GROUPED:
            names += [name for members in groups(task).values() for name in members]
        elif task in list_datasets():
            names.append(task)
        else:
            raise ValueError(unknown("task", task, [*list_datasets(), *suites()]))
    return list(dict.fromkeys(names))
