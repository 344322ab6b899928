"""Class ids in lists to labels, and the ids that cannot be meant as they stand."""

from collections.abc import Mapping, Sequence

from promptvit.data.findings import Findings
from promptvit.data.listed.lists import Line
from promptvit.data.listed.tasks import Task


def check_range(lines: Sequence[Line], first: int, classes: int, findings: Findings) -> None:
    """Find ids of one list outside ``first .. first + classes - 1``, first 0 or 1; a list that counts from the other one is one finding."""
    outside = [line for line in lines if not first <= line.id < first + classes]
    if not outside:
        return
    lowest, highest, other = min(line.id for line in lines), max(line.id for line in lines), 1 - first
    if other <= lowest and highest < other + classes:
        file = outside[0].where.partition(":")[0]
        message = f"class ids {lowest} to {highest} seem to count from {other}, not from {first} as they must"
        findings.error("mixed-id-base", file, f"{message}; first at {outside[0].path}")
        return
    for line in outside:
        findings.error("id-out-of-range", line.where, f"class id {line.id} of {line.path} is not in {first}..{first + classes - 1}")


def labels_of_train(lists: Mapping[str, Sequence[Line]], task: Task, findings: Findings) -> dict[int, int]:
    """Labels for the ids of ``train``, in their order. Ids of the other lists must be among them; looked at if train is sound.

    Returns:
        Class id to label, of ids that are in train.
    """
    ids = sorted({line.id for line in lists["train"]})
    if not ids:
        return {}  # a finding about train is enough
    first = _first_id(ids, task)
    if first is None and not task.scattered:
        _explain(ids, lists["train"], task, findings)
    labels = {number: label for label, number in enumerate(ids)}
    if len(ids) > task.classes and task.scattered:
        findings.error("id-out-of-range", "train", f"{len(ids)} different class ids; there are {task.classes} classes")
    elif len(ids) < task.classes:
        findings.warning("missing-class", "train", f"images of only {len(ids)} of {task.classes} classes")
    sound = not findings.of("error")
    for split, lines in lists.items():
        if split != "train" and first is not None:
            check_range(lines, first, task.classes, findings)
        for line in lines if sound else ():
            if line.id not in labels and (first is None or first <= line.id < first + task.classes):
                findings.error("unknown-label", line.where, f"class id {line.id} of {line.path} is in {split} but not in train")
    return labels


def _first_id(ids: Sequence[int], task: Task) -> int | None:
    """The id from which train counts: as published, or the other usual one; None where its ids leave both ranges."""
    for first in (task.first_id, 1 - task.first_id):
        if first <= ids[0] and ids[-1] < first + task.classes:
            return first
    return None


def _explain(ids: Sequence[int], train: Sequence[Line], task: Task, findings: Findings) -> None:
    """Why the ids of train do not fit."""
    if ids[0] == 0 and ids[-1] == task.classes:
        file = train[0].where.partition(":")[0]
        message = f"class ids 0 to {task.classes} for {task.classes} classes: some count from 0, others from 1"
        findings.error("mixed-id-base", file, message)
    else:
        check_range(train, task.first_id, task.classes, findings)
