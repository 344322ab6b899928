"""The adapter folder: what was learned, and all that is needed to use it again, without the backbone.

``adapter_config.json`` and ``adapter_model.safetensors``. No pickle, no time and no path inside: the same run gives the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from promptvit import files
from promptvit.backbones.base import Backbone
from promptvit.backbones.loading import is_path, load_backbone
from promptvit.config import checked
from promptvit.errors import shown
from promptvit.preprocessing import Preprocessing

if TYPE_CHECKING:
    from promptvit.model import PromptedModel

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NEXT = ".adapter_config.next.json"  # the config of a save under way; it counts from the moment that its weights are in place
Shade = Annotated[int, Field(ge=0, le=255)]
Name = Annotated[str, Field(max_length=300)]


class LoadArguments(BaseModel):
    """Arguments of load_backbone for a public name."""

    model_config = ConfigDict(extra="forbid")

    name_or_path: Name
    pretrained: bool
    arch: str | dict[str, Any] | None
    image_size: int | tuple[int, int] | None
    pool: str | None
    seed: int


class BackboneReference(BaseModel):
    """Which backbone an adapter belongs to, and how to load that one again where it has a public name."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    fingerprint: Name
    load: LoadArguments | None  # None for local files


class AdapterConfig(BaseModel):
    """Content of ``adapter_config.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int
    method: Name
    method_config: dict[str, Any]
    reading: Name | None
    backbone: BackboneReference
    head: Name
    head_options: dict[str, Any] = {}
    classes: list[str]
    palette: list[tuple[Shade, Shade, Shade]] | None = None
    preprocessing: Preprocessing
    metrics: dict[str, Any]
    weights_sha256: str

    @model_validator(mode="after")
    def _one_colour_each(self) -> "AdapterConfig":
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(f"palette: {len(self.palette)} colours for {len(self.classes)} classes")
        return self


def save(model: "PromptedModel", directory: Path, metrics: dict[str, Any]) -> Path:
    """Write ``model``'s adapter; a reader finds the one that was there before or this one, whenever the writer is killed.

    Raises:
        OSError: no permission, no space.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.learned().items()}
    weights = to_bytes(tensors, metadata={"format": "pt"})
    backbone = model.backbone
    config = AdapterConfig(
        format_version=FORMAT_VERSION, method=model.method.name, method_config=model.method.config.model_dump(mode="json"),
        reading=model.method.reading, head=model.head.name, head_options=model.head.options, classes=model.classes,
        palette=model.palette, preprocessing=model.preprocessing, metrics=metrics,
        backbone=BackboneReference.model_validate(
            {"name": backbone.name, "fingerprint": backbone.fingerprint, "load": backbone.load_arguments}
        ),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    directory.mkdir(parents=True, exist_ok=True)
    with files.atomic(directory / WEIGHTS) as temporary:
        temporary.write_bytes(weights)
        files.write_json(directory / NEXT, config.model_dump(mode="json"))
    (directory / NEXT).replace(directory / CONFIG)
    return directory


def config_path(directory: Path) -> Path:
    """The config that belongs to the weights: ``adapter_config.json``, but for a save that was killed just before its end."""
    following = directory / NEXT
    if following.is_file():
        with suppress(OSError, ValueError, LookupError, TypeError):
            named = json.loads(following.read_text(encoding="utf-8"))["weights_sha256"]
            if named == hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest():
                return following
    return directory / CONFIG


def read_config(directory: Path) -> AdapterConfig:
    """Read and check ``adapter_config.json``.

    Raises:
        ValueError: the folder is no adapter, one of a newer format, or damaged; the message names the file.
    """
    path = config_path(directory)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"adapter: {directory} has no {CONFIG}; give an adapter folder, or that of a run that has one already") from None
    except OSError as error:
        raise ValueError(f"adapter: {path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"adapter: {path} is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"adapter: {path} does not hold a JSON object")
    if values.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"adapter: {path} has format version {shown(values.get('format_version'))}; this promptvit reads {FORMAT_VERSION}")
    return checked(AdapterConfig, values, f"adapter: {path}:")


def read_weights(directory: Path, config: AdapterConfig) -> dict[str, Tensor]:
    """Read and check ``adapter_model.safetensors``.

    Raises:
        ValueError: it is missing, damaged, or not the one that the config was written with.
    """
    path = directory / WEIGHTS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"adapter: {directory} has no {WEIGHTS}") from None
    except OSError as error:
        raise ValueError(f"adapter: {path} cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != config.weights_sha256:
        raise ValueError(f"adapter: {path} is damaged, or belongs to another {CONFIG} (checksum differs); copy the folder again")
    try:
        return from_bytes(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # also data types that are unknown here
        raise ValueError(f"adapter: {path} is not a safetensors file that can be read here ({shown(str(error))})") from None


def find(directory_or_hub_id: str | os.PathLike[str]) -> Path:
    """The adapter folder behind a run folder, an adapter folder or a hub repository."""
    path = Path(directory_or_hub_id)
    if (path / "adapter" / CONFIG).is_file():
        return path / "adapter"
    if path.exists():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(os.fspath(directory_or_hub_id), allow_patterns=[CONFIG, WEIGHTS]))
    except HFValidationError:
        raise ValueError(f"adapter: no folder {path}") from None
    except Exception as error:
        raise ValueError(f"adapter: no folder {path}, and no such hub repository could be reached ({type(error).__name__})") from None


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the fault of ``path``, which may come from anywhere."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"adapter: {path}: {error}") from None
    except Exception as error:
        raise ValueError(f"adapter: {path} cannot be used ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error


def _check_backbone(config: AdapterConfig, backbone: Backbone) -> None:
    if backbone.fingerprint != config.backbone.fingerprint:
        raise ValueError(
            f"backbone: the adapter belongs to {config.backbone.name} (fingerprint {config.backbone.fingerprint}), "
            f"not to {backbone.name} (fingerprint {backbone.fingerprint})"
        )
    if backbone.preprocessing.size != config.preprocessing.size:
        raise ValueError(
            f"backbone: the adapter was trained at image size {config.preprocessing.size}, {backbone.name} is loaded for "
            f"{backbone.preprocessing.size}; load it with image_size={config.preprocessing.size}"
        )


def _build(config: AdapterConfig, backbone: Backbone) -> "PromptedModel":
    from promptvit.model import create_model

    model = create_model(
        backbone, config.method, len(config.classes), head=config.head, head_options=config.head_options, classes=config.classes,
        preprocessing=config.preprocessing, **config.method_config,
    )
    model.palette = config.palette
    if model.method.reading != config.reading:
        raise ValueError(f"{config.method} in reading {config.reading}; this promptvit computes reading {model.method.reading}")
    return model


def load(directory_or_hub_id: str | os.PathLike[str], backbone: Backbone | None = None) -> "PromptedModel":
    """Rebuild the model of an adapter.

    Args:
        directory_or_hub_id: adapter folder, run folder or hub repository.
        backbone: the backbone it was trained on; None loads it by the name in the config.

    Raises:
        ValueError: not an adapter, damaged, of another reading of its method, or trained on another backbone (both fingerprints are
            named) or at another image size.
    """
    directory = find(directory_or_hub_id)
    config = read_config(directory)
    tensors = read_weights(directory, config)
    if backbone is None:
        if config.backbone.load is None:
            raise ValueError(
                f"backbone: the adapter was trained on the local file {config.backbone.name}; give it as "
                "backbone=load_backbone(path, ...) or --backbone"
            )
        with _blaming(directory / CONFIG):
            if is_path(config.backbone.load.name_or_path):  # an adapter does not decide which files are read
                raise ValueError(f"backbone {shown(config.backbone.load.name_or_path)} is no public name; give its file yourself")
            backbone = load_backbone(**config.backbone.load.model_dump())
    return restore(directory, config, tensors, backbone)


def restore(directory: Path, config: AdapterConfig, tensors: dict[str, Tensor], backbone: Backbone) -> "PromptedModel":
    """Rebuild the model of an adapter that was read from ``directory``, on ``backbone``.

    Raises:
        ValueError: as :func:`load`.
    """
    _check_backbone(config, backbone)
    with _blaming(directory / CONFIG):
        model = _build(config, backbone)
    learned = model.learned()
    if learned.keys() != tensors.keys():
        raise ValueError(
            f"adapter: {directory / WEIGHTS} does not fit {config.method}; missing: {sorted(learned.keys() - tensors.keys())[:8]}, "
            f"unexpected: {shown(sorted(tensors.keys() - learned.keys())[:8], 500)}"
        )
    for name, tensor in learned.items():
        if tensor.shape != tensors[name].shape:
            shape = shown(tuple(tensors[name].shape))
            raise ValueError(f"adapter: {directory / WEIGHTS}: {name} has shape {shape}, {config.method} needs {tuple(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(tensors[name])
    return model.eval()
