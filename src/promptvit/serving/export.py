"""A tuned model, backbone included, as one file that other programs run: ONNX, or PyTorch's own ``.pt2``.

The input is normalised images ``[batch, 3, H, W]`` of the backbone's size, the batch being of any length; the output is what the model
gives, logits. What prepared inference remembers (keys and values of deep prompts, SA2VP's inserted maps) is written as constants. What a
reader needs beside the numbers stands in the file as JSON under the name ``promptvit``; see :func:`description`.

No file comes to its place before it was read back and agreed with the model.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map_only

from promptvit import files
from promptvit.backbones.base import PromptMemory
from promptvit.errors import first_line, unknown
from promptvit.model import PromptedModel
from promptvit.segmentation import SegmentationModel

TOLERANCE = 1e-4  # of logits; of the largest one where that is above 1
NAME = "promptvit"
FORMAT_VERSION = 1
ONNX_LIMIT = 1536 * 2**20  # bytes; torch.onnx splits larger models, and no ONNX file may have 2 GiB

Run = Callable[[Tensor], Tensor]


class Exported(NamedTuple):
    """A written file: its size in bytes, and by how much its logits differ from the model's at most."""

    path: Path
    size: int
    difference: float


class Format(NamedTuple):
    """How a program and its description are written to a path, and how the file is read back to run on images."""

    write: Callable[[ExportedProgram, dict[str, Any], Path], None]
    read: Callable[[Path], Run]


def export(model: PromptedModel, path: str | os.PathLike[str], format: str = "onnx") -> Exported:
    """Write ``model`` to ``path``.

    Args:
        model: on the CPU, in float32. It is not changed.
        path: is replaced once the new file is complete and agrees with ``model``.
        format: ``onnx`` or ``pt2``.

    Raises:
        ImportError: ``onnx`` without the extra ``export``.
        ValueError: an unknown format, a model on another device or in another precision, one that cannot be traced, one too large for
            an ONNX file, or a written file that disagrees with the model.
    """
    if format not in FORMATS:
        raise ValueError(unknown("format", format, FORMATS))
    _check(model, format)
    chosen, target = FORMATS[format], Path(path)
    with files.atomic(target) as temporary, _quiet():
        chosen.write(traced(model), description(model), temporary)
        found = difference(model, chosen.read(temporary))
        if not found <= TOLERANCE:
            raise ValueError(
                f"export: {target} was not written; its logits differ from the model's by {found:.1e}, more than {TOLERANCE:.0e}; "
                f"use format {next(other for other in FORMATS if other != format)}"
            )
        size = temporary.stat().st_size
    return Exported(target, size, found)


def description(model: PromptedModel) -> dict[str, Any]:
    """What the file says of itself: task, method and its reading, backbone and fingerprint, classes, colours, preprocessing."""
    return {
        "format_version": FORMAT_VERSION,
        "task": "segmentation" if isinstance(model, SegmentationModel) else "classification",
        "method": model.method.name,
        "reading": model.method.reading,
        "backbone": model.backbone.name,
        "fingerprint": model.backbone.fingerprint,
        "classes": model.classes,
        "palette": model.palette,
        "preprocessing": model.preprocessing.model_dump(mode="json"),
    }


class Fixed(nn.Module):
    """A frozen copy of ``model`` whose ``memory`` is filled already."""

    def __init__(self, model: PromptedModel) -> None:
        super().__init__()
        self.model = model.prepare_inference().model
        memory: PromptMemory = {}
        self.model(_images(model, 2), memory)
        # keys and values are interleaved in one storage; constants of a file stand for themselves
        self.memory = tree_map_only(Tensor, lambda t: t.clone(memory_format=torch.contiguous_format), memory)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, dict(self.memory))  # a copy: tracing leaves nothing behind


def traced(model: PromptedModel) -> ExportedProgram:
    """The graph of ``model`` for any number of images, without a trace of the source files.

    Raises:
        ValueError: something in it cannot be traced.
    """
    with torch.no_grad():
        fixed = Fixed(model)
        try:
            # strict: Dynamo keeps ``len(tensor)`` symbolic, plain tracing would fix the batch
            program = torch.export.export(fixed, (_images(model, 2),), dynamic_shapes=({0: Dim("batch")},), strict=True)
        except Exception as error:
            raise ValueError(f"export: {model.method.name} on {model.backbone.name} cannot be traced ({first_line(error)})") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


@torch.no_grad()
def difference(model: PromptedModel, run: Run) -> float:
    """Largest difference of logits on random images, relative to the largest logit where that is above 1."""
    was_training = model.training
    model.eval()
    shares = []
    for count in (1, 3):
        images = _images(model, count)
        expected, found = model(images), run(images)
        if found.shape == expected.shape:
            shares.append((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        else:
            shares.append(torch.tensor(float("inf")))
    model.train(was_training)
    return float(torch.stack(shares).max())  # NaN where one of them is


def _write_onnx(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    written = torch.onnx.export(
        program, input_names=["images"], output_names=["logits"], dynamic_shapes=({0: "batch"},), dynamo=True, verbose=False
    )
    assert written is not None
    ClearMetadataAndDocStringPass()(written.model)  # the exporter's notes hold paths of this machine
    written.model.metadata_props[NAME] = json.dumps(about)
    written.save(path)


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_pt2(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={NAME: json.dumps(about)})


def _read_pt2(path: Path) -> Run:
    with path.open("rb") as file:  # written by us a moment ago; a file from elsewhere would have to be trusted like code
        return torch.export.load(file).module()


FORMATS = {"onnx": Format(_write_onnx, _read_onnx), "pt2": Format(_write_pt2, _read_pt2)}


def _check(model: PromptedModel, format: str) -> None:
    """Refuse what cannot be written, before any work is done."""
    parameters = list(model.parameters())
    odd = {f"{p.device.type} {p.dtype}".replace("torch.", "") for p in parameters} - {"cpu float32"}
    if odd:
        raise ValueError(f"export: the model must be on the CPU in float32, it has {', '.join(sorted(odd))}; use model.cpu().float()")
    if format != "onnx":
        return
    size = sum(p.numel() * p.element_size() for p in parameters)
    if size > ONNX_LIMIT:
        raise ValueError(f"export: {size / 1e9:.1f} GB of weights do not fit into one ONNX file; use format pt2")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'export: onnx needs the package {error.name}; install it with: pip install "promptvit[export]"') from None


def _images(model: PromptedModel, count: int) -> Tensor:
    """Random normalised images ``[count, 3, H, W]``."""
    return torch.randn(count, 3, *model.preprocessing.size, generator=torch.Generator().manual_seed(count))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' notes to their own authors are no news to a user; errors still are."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
