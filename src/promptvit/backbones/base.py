"""The three layers that carry every method: a view of one frozen block, the frozen backbone, and one forward pass.

Sequences between blocks hold the image's tokens only, ``[prefix, patches]`` (prefix: class token and registers); prompts travel
beside them as ``[T, D]`` (shared by the batch) or ``[B, T, D]``. Outside (taps, test vectors) the order is
``[prefix, prompts, patches]``.
"""

import copy
import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from promptvit.errors import unknown
from promptvit.preprocessing import Preprocessing

Want = Literal["all", "tokens", "prefix"]
KeysValues = tuple[Tensor, Tensor]
PromptMemory = dict[int, Any]  # by block: keys and values of fixed prompts, or what else a method keeps
Result = TypeVar("Result")
POOLS = ("cls", "mean", "prompts", "patches+prompts", "map", "norm+mean", "norm+prompts", "norm+patches+prompts")

_force_reference = False


@contextmanager
def reference_path() -> Iterator[None]:
    """Run every block as a black box on the concatenated sequence: slow, simple, the yardstick of the fast paths."""
    global _force_reference
    before, _force_reference = _force_reference, True
    try:
        yield
    finally:
        _force_reference = before


def reference_forced() -> bool:
    """Whether :func:`reference_path` is active."""
    return _force_reference


def per_image(prompts: Tensor, batch: int) -> Tensor:
    """``[T, D]`` or ``[B, T, D]`` prompts as ``[B, T, D]``."""
    return prompts if prompts.ndim == 3 else prompts.expand(batch, -1, -1)


class Block:
    """Stateless view of one frozen block for one input grid.

    ``opened`` blocks are of a known type and expose their attention; any other block is a black box that can only be called.
    """

    opened = False

    def __init__(self, module: nn.Module, prefix: int) -> None:
        self.module = module
        self.prefix = prefix

    @property
    def window(self) -> tuple[int, int] | None:
        """Rows and columns of the windows that attention stays inside; None: every token sees all."""
        return None

    def call(self, sequence: Tensor, prompts: int) -> Tensor:
        """The frozen block on ``[prefix, prompts, patches]``; ``prompts`` says how many rows have no position."""
        return self.module(sequence)

    def keys_values(self, prompts: Tensor) -> KeysValues | None:
        """Keys and values of ``prompts``, each ``[1 or B, heads, T, d]``; None for a black box."""
        return None

    def softmax_attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention ``[B, heads, S, d]`` of an opened block, in one fused step; a recorder puts an explicit softmax in its place."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def run(
        self, x: Tensor, prompts: Tensor | None, want: Want = "all", temperature: float | Tensor = 1.0, prompt_kv: KeysValues | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One block on tokens ``x [B, P+N, D]`` with ``prompts`` taking part in its attention.

        Args:
            want: what is computed: ``all`` (tokens and prompts), ``tokens``, or ``prefix`` (class token and registers only).
            temperature: divides the attention logits of all tokens; a number, or one per image ``[B]``.
            prompt_kv: the prompts' keys and values where they are known already.

        Returns:
            The tokens asked for, and the output prompts ``[B, T, D]`` (None unless ``want`` is ``all``).
        """
        return self.run_black_box(x, prompts, want, temperature)

    def run_black_box(
        self, x: Tensor, prompts: Tensor | None, want: Want, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Concatenate, call the frozen block, split."""
        count = 0
        if prompts is not None:
            prompts = per_image(prompts, len(x))
            count = prompts.shape[1]
            x = torch.cat([x[:, : self.prefix], prompts.to(x.dtype), x[:, self.prefix :]], dim=1)
        with self._tempered(temperature):
            x = self.call(x, count)
        out = x[:, self.prefix : self.prefix + count] if count and want == "all" else None
        if want == "prefix":
            return x[:, : self.prefix], None
        return torch.cat([x[:, : self.prefix], x[:, self.prefix + count :]], dim=1) if count else x, out

    @contextmanager
    def _tempered(self, temperature: float | Tensor) -> Iterator[None]:
        """Divide the block's queries by ``temperature`` while it is called here (timm passes queries through ``attn.q_norm``)."""
        if isinstance(temperature, float) and temperature == 1.0:
            yield
            return
        query_norm = getattr(getattr(self.module, "attn", None), "q_norm", None)
        if query_norm is None:
            raise ValueError(f"temperature: a {type(self.module).__name__} block gives no hold for one; use a method without temperatures")
        here = threading.get_ident()  # the module is shared: other threads may be calling it too

        def divide(_module: nn.Module, _inputs: Any, queries: Tensor) -> Tensor:
            return queries / broadcast(temperature, queries) if threading.get_ident() == here else queries

        handle = query_norm.register_forward_hook(divide)
        try:
            yield
        finally:
            handle.remove()


def broadcast(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A scalar as it is, ``[B]`` shaped to multiply ``like [B, ...]``."""
    return value.view(-1, *[1] * (like.ndim - 1)) if isinstance(value, Tensor) and value.ndim else value


class Backbone(nn.Module):
    """A frozen Vision Transformer: weights and facts, no per-call state.

    Attributes:
        family: vit, eva or swin.
        model: the timm module; parameter names are timm's.
        name: what it was loaded by.
        preprocessing: travels with the weights.
        width, depth, grid, patch_size: channels of the features, number of blocks, patches as (rows, columns), pixels of a patch.
        num_prefix_tokens: class token and registers in front of the patches.
        widths: channels of each block's tokens.
        is_mae: the weights come from masked image modelling, so a mean over tokens is the better feature.
        pool: the feature to read unless a call says otherwise; None leaves it to ``default_pool``.
        load_arguments: what :func:`promptvit.load_backbone` was called with; None for local files and hand-made models.
    """

    family: ClassVar[str]
    model: Any
    width: int
    patch_size: tuple[int, int]
    grid: tuple[int, int]
    num_prefix_tokens: int
    widths: list[int]

    def __init__(self, model: nn.Module, *, name: str, preprocessing: Preprocessing, is_mae: bool = False, pool: str | None = None) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.preprocessing = preprocessing
        self.is_mae = is_mae
        self.pool = pool
        self.load_arguments: dict[str, Any] | None = None
        self._fingerprint: str | None = None
        if pool is not None and pool not in POOLS:
            raise ValueError(unknown("pool", pool, POOLS))

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: frozen means frozen."""
        return super().train(False)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.widths)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the source tensors as float32, sorted by timm name, before any interpolation, without a head."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for _, tensor in sorted(self.model.state_dict().items()):
                digest.update(tensor.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def trainable_copy(self) -> "Backbone":
        """A deep copy whose weights may learn; it keeps the fingerprint of its source."""
        _ = self.fingerprint  # before training changes what it is computed from
        return copy.deepcopy(self)

    def block_name(self, i: int) -> str:
        """Name of block ``i`` inside ``model``, as in ``blocks.3``."""
        return f"blocks.{i}"

    def default_pool(self, prompted: bool) -> str:
        """The pooling for a method: the loaded choice, or the class token, or (MAE) the mean over patches and prompts."""
        if self.pool is not None:
            return self.pool
        if self.is_mae:
            return "patches+prompts" if prompted else "mean"
        return "cls"

    def blocks(self, grid: tuple[int, int] | None = None) -> Sequence[Block]:
        """Views of all blocks for an input of ``grid`` patches (default: the backbone's own)."""
        raise NotImplementedError

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Patches of ``images`` as (rows, columns)."""
        return images.shape[-2] // self.patch_size[0], images.shape[-1] // self.patch_size[1]

    def patchify(self, images: Tensor, any_size: bool = False) -> Tensor:
        """Patch embeddings ``[B, N, D]`` before positions.

        Raises:
            ValueError: images of another size than the backbone's; with ``any_size``, sides that are no multiple of the patch.
        """
        if any_size:
            if any(side % patch for side, patch in zip(images.shape[-2:], self.patch_size, strict=True)):
                raise ValueError(f"images: sides of {tuple(images.shape[-2:])} are no multiples of the patch {self.patch_size}; pad them")
        elif tuple(images.shape[-2:]) != tuple(self.model.patch_embed.img_size):
            raise ValueError(
                f"images: {self.name} expects {'x'.join(map(str, self.model.patch_embed.img_size))} pixels, got "
                f"{'x'.join(map(str, images.shape[-2:]))}; resize them, or load the backbone with image_size="
            )
        x = self.model.patch_embed(images)
        return x.flatten(1, 2) if x.ndim == 4 else x

    def positions(self) -> Tensor:
        """Absolute positions ``[1, P+N, D]`` of the tokens that enter block 0; zero rows where there is none."""
        raise NotImplementedError

    def embed(self, images: Tensor, any_size: bool = False) -> Tensor:
        """Tokens ``[B, P+N, D]`` that enter block 0; ``any_size`` as in :meth:`patchify`."""
        raise NotImplementedError

    def run_block(
        self, i: int, x: Tensor, prompts: Tensor | None = None, want: Want = "all", temperature: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """Block ``i``; see :meth:`Block.run`."""
        return self.blocks()[i].run(x, prompts, want, temperature)

    def merge(self, i: int, x: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What happens before block ``i``: nothing, except where a Swin stage starts."""
        return x, prompts

    def needs(self, pool: str) -> Want:
        """What the last block must still compute for ``pool``."""
        raise NotImplementedError

    def readout(self, x: Tensor, prompts: Tensor | None, pool: str, norm: nn.Module | None = None) -> Tensor:
        """Features ``[B, D]`` from the last block's tokens and prompts; ``norm`` replaces the weights' own norm."""
        raise NotImplementedError

    def forward(self, images: Tensor, pool: str | None = None) -> Tensor:
        """Features ``[B, D]`` of normalised ``images [B, 3, H, W]`` without prompts.

        Raises:
            ValueError: unknown ``pool``, or images of another size than the backbone's.
        """
        pool = self.default_pool(prompted=False) if pool is None else pool
        step = Pass(self, images, pool)
        x = step.tokens
        for i in range(self.depth):
            x, _ = step(i, x, None)
        return self.readout(x, None, pool)


class Pass:
    """One forward through the blocks.

    Args:
        images: ``[B, 3, H, W]``; their embedded tokens wait in ``tokens``.
        pool: the readout that follows; it decides what the last block computes.
        taps: blocks after which the tokens ``[B, P+N, D]`` (no prompts) are kept in ``tapped``.
        observe: called with (block, tokens in, prompts in, tokens out, prompts out); then every block computes everything.
        memory: remembers keys and values of fixed prompts between passes.
        recompute: keep each block's inputs only and run it again in the backward pass.
        any_size: images need not have the backbone's size, only sides that are multiples of its patch.
    """

    def __init__(
        self, backbone: Backbone, images: Tensor, pool: str, *, taps: Collection[int] = (),
        observe: Callable[[int, Tensor, Tensor | None, Tensor, Tensor | None], None] | None = None, memory: PromptMemory | None = None,
        recompute: bool = False, any_size: bool = False,
    ) -> None:
        self.backbone = backbone
        self.depth = backbone.depth
        self.last: Want = backbone.needs(pool)
        self.taps = taps
        self.tapped: dict[int, Tensor] = {}
        self.observe = observe
        self.memory = memory
        self.recompute = recompute
        self.tokens = backbone.embed(images, any_size)
        self.grid = backbone.grid_of(images)
        self.blocks = backbone.blocks(self.grid)

    def __call__(
        self, i: int, x: Tensor, prompts: Tensor | None, keep: bool = True, temperature: float | Tensor = 1.0, fixed: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Block ``i``. ``keep=False``: the caller will not use the output prompts, so they need not be computed.

        ``fixed``: the prompts do not depend on the images, so what is remembered of them holds for the next pass too.
        """
        x, prompts = self.backbone.merge(i, x, prompts)
        want: Want = self.last if i == self.depth - 1 else "all" if keep and prompts is not None else "tokens"
        if i in self.taps and want == "prefix":
            want = "tokens"
        if self.observe is not None:
            want = "all"
        prompt_kv = None
        if self.memory is not None and prompts is not None and fixed and want != "all" and self.blocks[i].opened:
            if i not in self.memory:
                self.memory[i] = self.blocks[i].keys_values(prompts)
            prompt_kv = self.memory[i]
        y, out = self.recomputed(self.blocks[i].run, x, prompts, want, temperature, prompt_kv)
        if self.observe is not None:
            self.observe(i, x, prompts, y, out)
        if i in self.taps:
            self.tapped[i] = y
        return y, out

    def recomputed(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """``function(*arguments)``, whose intermediate results are not kept for the backward pass where ``recompute`` is on."""
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False)
