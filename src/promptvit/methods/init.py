"""How prompts start: uniform noise (VPT) or token prototypes of the target data (SPT, ICML 2024, section 4).

Prototypes are drawn in one streaming pass over training images through the frozen backbone, in memory that does not grow with
the data. ``random`` keeps tokens by reservoir, ``kmeans`` the centres of MiniBatchKMeans, ``mean`` and ``max`` pool windows of
consecutive patches.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, Protocol

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from promptvit.backbones.base import Backbone

Init = Literal["uniform", "random", "kmeans", "mean", "max"]
Windows = Literal["one-each", "authors"]


def uniform(*shape: int, patch: tuple[int, int], generator: torch.Generator) -> Tensor:
    """VPT's start: uniform in +-sqrt(6 / (3 * patch height * patch width + D)), D the last of ``shape``."""
    bound = math.sqrt(6 / (3 * patch[0] * patch[1] + shape[-1]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


class Sampler(Protocol):
    """Sees batches of tokens ``[b, N, D]`` and gives ``[P, D]`` prompts."""

    def see(self, tokens: Tensor) -> None: ...
    def prompts(self) -> Tensor: ...


class Reservoir:
    """``count`` rows out of a stream, every row equally likely: each gets a random key and the largest keys stay."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator
        self.keys = torch.empty(0)
        self.rows: Tensor | None = None

    def see(self, tokens: Tensor) -> None:
        fresh = tokens.reshape(-1, tokens.shape[-1])
        keys = torch.cat([self.keys, torch.rand(len(fresh), generator=self.generator)])
        rows = fresh if self.rows is None else torch.cat([self.rows, fresh])
        self.keys, kept = keys.topk(min(self.count, len(keys)))
        self.rows = rows[kept]

    def prompts(self) -> Tensor:
        if self.rows is None or len(self.rows) < self.count:
            seen = 0 if self.rows is None else len(self.rows)
            raise ValueError(f"num_prompts: {self.count} prompts cannot start from {seen} tokens; use fewer, or more training images")
        return self.rows


class WindowPooling:
    """Windows of consecutive patches, pooled: window ``k`` of one random image is prompt ``k``."""

    def __init__(self, count: int, pooling: Literal["mean", "max"], generator: torch.Generator) -> None:
        self.count, self.pooling = count, pooling
        self.windows = [Reservoir(1, generator) for _ in range(count)]

    def see(self, tokens: Tensor) -> None:
        if self.count > tokens.shape[1]:
            raise ValueError(f"num_prompts: {self.count} windows do not fit {tokens.shape[1]} patches; use at most {tokens.shape[1]}")
        for window, part in zip(self.windows, tokens.tensor_split(self.count, dim=1), strict=True):
            window.see(part.mean(dim=1) if self.pooling == "mean" else part.amax(dim=1))

    def prompts(self) -> Tensor:
        return torch.cat([window.prompts() for window in self.windows])


class AuthorsWindows(Reservoir):
    """The authors' pooling: a random ``count`` of all images' pooled windows, so not one prompt per window."""

    def __init__(self, count: int, pooling: Literal["mean", "max"], generator: torch.Generator) -> None:
        super().__init__(count, generator)
        self.pooling = pooling

    def see(self, tokens: Tensor) -> None:
        super().see(authors_windows(tokens, self.count, self.pooling))


def authors_windows(tokens: Tensor, count: int, pooling: Literal["mean", "max"]) -> Tensor:
    """Pooled windows of SPT's code, window-major ``[count * b, D]``.

    ``count - 1`` windows of ``w = N // (count - 1)`` patches, then the last ``N mod w`` patches as one more; where that is none,
    the last window pools all patches (a slip of the code that the published numbers contain).
    """
    patches = tokens.shape[1]
    if count < 2 or count - 1 > patches:
        raise ValueError(f"num_prompts: the authors' windows need 2 to {patches + 1} prompts for {patches} patches, got {count}")
    width = patches // (count - 1)
    rest = patches % width
    parts = [tokens[:, k * width : (k + 1) * width] for k in range(count - 1)] + [tokens[:, -rest:] if rest else tokens]
    return torch.cat([part.mean(dim=1) if pooling == "mean" else part.amax(dim=1) for part in parts])


class Centres:
    """Centres of MiniBatchKMeans; the first chunk must hold at least ``count`` tokens."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        self.kmeans = MiniBatchKMeans(count, random_state=seed, n_init=1)

    def see(self, tokens: Tensor) -> None:
        rows = tokens.reshape(-1, tokens.shape[-1]).double().cpu().numpy()
        if len(rows) < self.kmeans.n_clusters and not hasattr(self.kmeans, "cluster_centers_"):
            raise ValueError(f"num_prompts: {self.kmeans.n_clusters} centres need as many tokens in the first batch, got {len(rows)}")
        self.kmeans.partial_fit(rows)

    def prompts(self) -> Tensor:
        return torch.from_numpy(self.kmeans.cluster_centers_).float()


def sampler(kind: Init, windows: Windows, count: int, generator: torch.Generator) -> Sampler:
    """The sampler called ``kind``."""
    if kind == "random":
        return Reservoir(count, generator)
    if kind == "kmeans":
        return Centres(count, generator)
    if kind in ("mean", "max"):
        return (WindowPooling if windows == "one-each" else AuthorsWindows)(count, kind, generator)
    raise ValueError(f"init: {kind!r} does not start from data")


def prototypes(
    backbone: Backbone,
    batches: Iterable[Tensor],
    blocks: Collection[int],
    count: int,
    kind: Init,
    windows: Windows,
    generator: torch.Generator,
    images: int | None = None,
) -> dict[int, Tensor]:
    """Prompts ``[count, D]`` for each of ``blocks`` from normalised training images ``[B, 3, H, W]``, or the first ``images`` of them."""
    samplers = {i: sampler(kind, windows, count, generator) for i in sorted(blocks)}
    show(backbone, batches, samplers, images)
    return {i: sampler.prompts() for i, sampler in samplers.items()}


@torch.no_grad()
def show(backbone: Backbone, batches: Iterable[Tensor], samplers: Mapping[int, Sampler], images: int | None = None) -> None:
    """Stream images through the backbone: each sampler sees the patch tokens that enter its block.

    Block 0 sees patch embeddings before positions, block ``i`` the patch tokens that leave block ``i - 1``.
    """
    for batch in batches:
        if images is not None:
            batch, images = batch[:images], max(0, images - len(batch))
        if 0 in samplers:
            samplers[0].see(backbone.patchify(batch).cpu())
        x = backbone.embed(batch)
        for i in range(max(samplers)):
            x, _ = backbone.merge(i, x, None)
            x, _ = backbone.run_block(i, x, want="tokens")
            if i + 1 in samplers:
                merged, _ = backbone.merge(i + 1, x, None)
                samplers[i + 1].see(merged[:, backbone.num_prefix_tokens :].cpu())
        if images == 0:
            break
