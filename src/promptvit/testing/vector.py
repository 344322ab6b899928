"""One parity vector: a safetensors file whose metadata values are JSON. What is odd about it is named, with its file and key."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from promptvit.errors import first_line

RESULTS = r"(state|out|grad|gradstat|single)/|gen\d+/prompt$"
METADATA = (
    "case", "method", "backbone", "shape", "batch", "num_classes", "prompt", "trainable", "grad_none", "ln_eps",
    "source_repo", "source_commit",
)
FEATURES = ("features", "logits", "loss")


@dataclass(frozen=True)
class Vector:
    """Weights, inputs and the authors' results of one case.

    Attributes:
        path: the file.
        meta: its metadata, parsed.
        tensors: all its tensors, by key.
    """

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Vector":
        """Read and check a file.

        Raises:
            ValueError: it cannot be read, is no vector, lacks metadata or a key, or holds NaN; one line that names file and cause.
        """
        path = Path(path)
        refuse_what_is_no_vector(path)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ValueError(f"{path}: truncated or damaged safetensors file ({first_line(error)})") from None
        try:
            meta = {key: json.loads(value) for key, value in metadata.items()}
        except (ValueError, RecursionError):
            raise ValueError(f"{path}: metadata is not JSON") from None
        vector = cls(path, meta, tensors)
        try:
            vector.check()
        except (TypeError, AttributeError) as error:  # a list where a dictionary is due, and the like
            raise vector.error(f"metadata is malformed ({first_line(error)})") from error
        return vector

    def check(self) -> None:
        """Metadata fields and keys that every case of this method has, and finite numbers."""
        for name in METADATA:
            self.field(name)
        for key in sorted(self.required()):
            self[key]
        for key, tensor in self.tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise self.error(f"{key} holds NaN or infinite values")
        labels = self["input/labels"]
        if labels.dtype != torch.int64 or labels.ndim != 1 or not bool(((labels >= 0) & (labels < self.meta["num_classes"])).all()):
            raise self.error(f"input/labels are not classes 0 to {self.meta['num_classes'] - 1}")

    def error(self, what: str) -> ValueError:
        """An error that names the file."""
        return ValueError(f"{self.path}: {what}")

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise self.error(f"no tensor {key}")
        return self.tensors[key]

    def field(self, *names: str) -> Any:
        """A metadata value, by the names that lead to it."""
        value: Any = self.meta
        for depth, name in enumerate(names, start=1):
            if not isinstance(value, dict) or name not in value:
                raise self.error(f"metadata lacks {'.'.join(names[:depth])}")
            value = value[name]
        return value

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose key starts with ``prefix``, without it."""
        return {key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}

    @property
    def trained(self) -> list[str]:
        """The authors' names of the trained tensors that have a gradient, head included."""
        return [name for name in self.meta["trainable"] if name not in self.meta["grad_none"]]

    def results(self) -> dict[str, Tensor]:
        """The authors' results that an implementation is compared with."""
        return {key: tensor for key, tensor in self.tensors.items() if re.match(RESULTS, key) and not self.mixes_images(key)}

    def mixes_images(self, key: str) -> bool:
        """Whether the authors' Swin let the images of a batch reach each other in this result.

        With shallow prompts they do so in all but ``single/``; with deep ones only in what leaves a block of several windows, whose
        prompts are then replaced.
        """
        if key.startswith("single/") or not self.under("single/"):
            return False
        if self.under("single/grad/"):
            return True
        left = re.fullmatch(r"state/stage(\d+)\.(?:block\d+|merge)\.out", key)
        shape = self.meta["shape"]
        return left is not None and shape["img"] // shape["patch"] // 2 ** int(left[1]) > shape["window"]

    def required(self) -> set[str]:
        """Keys without which a case of this kind is incomplete."""
        meta = self.meta
        branches = meta["method"] == "sa2vp"
        keys = {"input/labels", "head/weight", "head/bias", "out/loss"}
        names = [f"{name}_{branch}" for name in FEATURES for branch in ("image", "prompt")] if branches else FEATURES
        keys |= {f"out/{name}" for name in names}
        keys |= {f"grad/{name}" for name in self.trained if f"gradstat/{name}" not in self.tensors}
        keys |= {f"{run}/{part}" for run in meta.get("generator_runs", {}) for part in ("ids", "prompt")}
        if "images_recipe" not in meta:
            keys.add("input/images")
        if "weights_recipe" not in meta:
            keys |= {f"param/{name}" for name in meta["trainable"] if not name.startswith("head.")}
        if "batch_vs_single_max_abs_diff" in meta:
            keys |= {f"single/{name}" for name in FEATURES}
        if meta["method"] == "gapt":
            keys |= {"out/gate"} if self.field("gate", "num") else set()
            keys |= {"out/temp_after_forward"} if self.field("temperature", "learned") else set()
        if "generator_runs" not in meta and "weights_recipe" not in meta:
            keys |= {f"state/{name}" for name in self._states(branches)}
        return keys

    def _states(self, branches: bool) -> list[str]:
        """States that are always stored: what leaves a block, or for two branches what enters it and what they exchange."""
        if self.meta["backbone"] == "swin":
            depths = {f"stage{s}.": depth for s, depth in enumerate(self.field("shape", "depths"))}
            fused = f"stage{self.meta['prompt'].get('cross_stage')}.block"
        else:
            depths, fused = {"": self.field("shape", "depth")}, "block"
        blocks = [f"{stage}block{b}" for stage, depth in depths.items() for b in range(depth)]
        if not branches:
            return [f"{blocks[0]}.in", *(f"{block}.out" for block in blocks)]
        exchanged = [f"{block}.{part}" for block in blocks if block.startswith(fused) for part in ("image_in", "prompt_in", "fusion")]
        return ["final.image", "final.prompt", *exchanged]


def refuse_what_is_no_vector(path: Path) -> None:
    """Raise ValueError for a missing or empty file, a Git LFS pointer, an HTML page, or anything but safetensors."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if not head:
        raise ValueError(f"{path}: the file is empty")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a Git LFS pointer, not the file; fetch it with `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: an HTML page, not a vector; the download went wrong")
    if head[8:9] != b"{":  # eight bytes of header length, then JSON
        raise ValueError(f"{path}: not a safetensors file; it starts with {head[:16]!r}")
