"""Adapters on the Hugging Face hub: publish one with a generated model card. ``PromptedModel.from_pretrained`` loads it again.

What is published is the adapter folder, kilobytes, and never the backbone: the card names it, by fingerprint too.
"""

import json
import math
import os
from typing import Any

from timm.models import get_pretrained_cfg, is_model

from promptvit.adapter import CONFIG, WEIGHTS, AdapterConfig, BackboneReference, config_path, find, read_config, read_weights
from promptvit.errors import first_line

CARD = "README.md"

# by head: the hub's task, and for each measure the hub's name of it and ours
_CLASSIFICATION = ("image-classification", {"accuracy": ("accuracy", "accuracy")})
_SEGMENTATION = (
    "image-segmentation",
    {"miou": ("mean_iou", "mIoU"), "mean_accuracy": ("mean_accuracy", "mean accuracy"), "accuracy": ("accuracy", "pixel accuracy")},
)


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Adapter and model card",
) -> str:
    """Publish the adapter of a run or adapter folder, with its card, in one commit; returns the commit's address.

    The repository is made if there is none. Its ``README.md`` is written anew.

    Args:
        repo_id: ``owner/name``.
        private: of a new repository; None leaves it to the account's default.
        token: of the hub; None takes the one that ``hf auth login`` stored.
        revision: a branch that exists; None is the main one.

    Raises:
        ValueError: no adapter, a damaged one, or the hub refused or could not be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    directory = find(folder)
    read_weights(directory, read_config(directory))  # a damaged adapter stays at home
    contents = {CONFIG: config_path(directory).read_bytes(), WEIGHTS: (directory / WEIGHTS).read_bytes()}
    contents[CARD] = model_card(directory, repo_id).encode()
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
        commit = api.create_commit(repo_id, files, commit_message=commit_message, revision=revision)
    except Exception as error:
        raise ValueError(f"hub: {repo_id} could not be written ({type(error).__name__}: {first_line(error)})") from error
    return str(commit.commit_url)


def model_card(folder: str | os.PathLike[str], repo_id: str | None = None) -> str:
    """The card of a run or adapter folder: YAML front matter for the hub, then Markdown for people.

    Args:
        repo_id: where it will lie, for the lines that load it; None: they name a folder.

    Raises:
        ValueError: no adapter, or a damaged one.
    """
    config = read_config(find(folder))
    parts = [
        f"---\n{_front_matter(config)}\n---",
        f"# {_title(config)}",
        f"An adapter of [visual prompt tuning](https://arxiv.org/abs/2203.12119) for {len(config.classes)} classes, made with promptvit. "
        "It holds what was learned; the backbone is loaded beside it and checked by its fingerprint.",
        f"## Use\n\n```python\n{_code(config, repo_id)}\n```",
        f"## Facts\n\n{_table(('what', 'value'), _facts(config))}",
        f"## Measured\n\n{_measured(config)}",
        # one class a line, each after a blank, so that no name can end the block
        f"## Classes\n\nIn the order of the logits:\n\n```json\n{json.dumps(config.classes, indent=1, ensure_ascii=False)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def base_model(backbone: BackboneReference) -> str | None:
    """The hub repository of the backbone's weights, where they have one."""
    if backbone.load is None or not backbone.load.pretrained:
        return None
    name = backbone.load.name_or_path
    if name.startswith("hf:"):
        return name.removeprefix("hf:")
    timm_name = name.removeprefix("timm:")
    weights = get_pretrained_cfg(timm_name) if is_model(timm_name) else None
    return weights.hf_hub_id if weights is not None else None


def _front_matter(config: AdapterConfig) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task, names = _kind(config)
    dataset = config.metrics.get("dataset")
    results = [
        EvalResult(
            task_type=task, dataset_type=str(dataset), dataset_name=str(dataset), dataset_split=str(config.metrics["split"]),
            metric_type=names[measure][0], metric_name=names[measure][1], metric_value=value,
        )
        for measure, value in _measures(config).items()
        if dataset and config.metrics.get("split")
    ]
    return ModelCardData(
        library_name="promptvit", pipeline_tag=task, tags=["visual-prompt-tuning", config.method], base_model=base_model(config.backbone),
        metrics=[names[measure][0] for measure in _measures(config)] or None, model_name=_title(config) if results else None,
        eval_results=results or None,
    ).to_yaml()


def _title(config: AdapterConfig) -> str:
    return _plain(f"{config.method} on {config.backbone.name}")


def _code(config: AdapterConfig, repo_id: str | None) -> str:
    given = [json.dumps(repo_id or "path/to/this/folder")]
    lines = ["import promptvit", "from PIL import Image", ""]
    if config.backbone.load is None:
        lines.append('backbone = promptvit.load_backbone("path/to/the/backbone")  # the file that the facts below name')
        given.append("backbone=backbone")
    lines.append(f"model = promptvit.PromptedModel.from_pretrained({', '.join(given)})")
    dense = config.head != "linear"
    lines.append(f'print(model.predict(Image.open("photo.jpg")){"[0]" if dense else ".classes"})' + ("  # a class index per pixel" * dense))
    return "\n".join(lines)


def _facts(config: AdapterConfig) -> list[tuple[str, str]]:
    options = {key: value for key, value in config.method_config.items() if value is not None}
    return [
        ("method", _inline(config.method) + (f", reading {_inline(config.reading)}" if config.reading else "")),
        ("its options", _inline(json.dumps(options))),
        ("backbone", _inline(config.backbone.name)),
        ("its fingerprint (SHA-256)", _inline(config.backbone.fingerprint)),
        ("head", _inline(config.head)),
        ("images", _plain(str(config.preprocessing))),
    ]


def _measured(config: AdapterConfig) -> str:
    found = config.metrics
    _, names = _kind(config)
    rows = [
        (_inline(found.get("dataset") or "not named"), _inline(split or "not named"), names[measure][1], f"{value:.4f}")
        for prefix, split in (("", found.get("split")), ("val_", "val"))
        for measure, value in _measures(config, prefix).items()
    ]
    if not rows:
        return "No measurement is stored with this adapter."
    chosen = f"\n\nWeights chosen by: {_inline(found['select'])}." if found.get("select") else ""
    return _table(("data set", "split", "measure", "value (0 to 1)"), rows) + chosen


def _kind(config: AdapterConfig) -> tuple[str, dict[str, tuple[str, str]]]:
    return _CLASSIFICATION if config.head == "linear" else _SEGMENTATION


def _measures(config: AdapterConfig, prefix: str = "") -> dict[str, float]:
    """The stored numbers, by measure; ``val_`` in front of those of the validation split."""
    stored = {measure: config.metrics.get(prefix + measure) for measure in _kind(config)[1]}
    return {measure: float(v) for measure, v in stored.items() if isinstance(v, int | float) and math.isfinite(v)}


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _inline(text: object) -> str:
    """Code in a line of Markdown, whatever the text holds."""
    return f"`{_plain(str(text)).replace('`', chr(39))}`"


def _plain(text: str) -> str:
    """One line that breaks no table."""
    return " ".join(text.split()).replace("|", "/")
