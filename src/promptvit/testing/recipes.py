"""Tensors that a vector describes instead of storing: one numpy generator, a standard normal draw each, offset and scale."""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptvit.testing.vector import Vector


def images(vector: Vector) -> Tensor:
    """All drawn images ``[n, 3, H, W]``.

    Raises:
        ValueError: a recipe we do not know, or a draw whose checksum differs.
    """
    recipe = vector.field("images_recipe")
    drawn = generator(vector, recipe, "images_recipe").standard_normal(recipe["shape"]).astype(np.float32)
    if "checksum_images" in vector.meta:
        check(vector, "images_recipe", drawn, vector.meta["checksum_images"])
    return torch.from_numpy(drawn)


def weights(vector: Vector) -> dict[str, Tensor]:
    """Drawn weights under the names that ``ref_map`` gives them, ``timm/...`` and ``param/...``, slices put together.

    Raises:
        ValueError: a recipe we do not know, or a draw whose checksum differs.
    """
    recipe = vector.field("weights_recipe")
    random = generator(vector, recipe, "weights_recipe")
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for key in vector.field("recipe_keys"):
        offset, scale = vector.field("weights_recipe", "offset_scale_per_key", key)
        z = random.standard_normal(vector.field("weights_recipe", "shapes", key))
        drawn = (offset + scale * z).astype(np.float32)
        if key in vector.meta.get("checksum_weights", {}):
            check(vector, key, drawn, vector.meta["checksum_weights"][key])
        name, start = re.fullmatch(r"([^\[]+)(?:\[(\d+):\d+\])?", vector.field("ref_map", key)).groups()  # type: ignore[union-attr]
        parts.setdefault(name, []).append((int(start or 0), torch.from_numpy(drawn)))
    return {name: torch.cat([t for _, t in sorted(pieces, key=lambda piece: piece[0])]) for name, pieces in parts.items()}


def generator(vector: Vector, recipe: dict[str, Any], name: str) -> np.random.RandomState:
    """The generator that ``recipe`` names."""
    if recipe.get("rng") != "numpy.random.RandomState" or not isinstance(recipe.get("seed"), int):
        raise vector.error(f"metadata {name} draws from {recipe.get('rng')!r}, seed {recipe.get('seed')!r}; need numpy.random.RandomState")
    return np.random.RandomState(recipe["seed"])


def check(vector: Vector, key: str, drawn: np.ndarray, expected: list[float]) -> None:
    """Compare sum and sum of absolute values with the stored ones."""
    values = drawn.astype(np.float64)
    if not np.allclose([values.sum(), np.abs(values).sum()], expected, rtol=1e-7, atol=1e-5):
        raise vector.error(f"{key}: the numbers drawn by recipe do not have the stored checksum")
