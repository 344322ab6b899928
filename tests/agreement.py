"""Random backbones and flows, and the check that a block's fast path equals the plain one."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from promptvit.backbones.base import reference_path
from promptvit.backbones.families import wrap
from promptvit.preprocessing import Preprocessing


def wrapped(model, seed=0, **facts):
    """A backbone around a timm model with seeded weights, far from their near-identity start, so that faults show."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_((tensor == 1) + 0.15 * torch.randn(tensor.shape, generator=generator))  # ones are the scales of norms
    return wrap(model, name="tiny", preprocessing=Preprocessing(size=model.patch_embed.img_size), **facts)


def images_for(backbone, batch=2, seed=1):
    images = torch.randn(batch, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(seed))
    return images.to(next(backbone.parameters()).dtype)


@torch.no_grad()
def timm_features(backbone, images):
    """The tokens after timm's own forward, and what its head would classify."""
    tokens = backbone.model.forward_features(images)
    return tokens, backbone.model.forward_head(tokens, pre_logits=True)


def worst(a, b):
    """Largest difference relative to the largest value."""
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-6))


@dataclass(frozen=True)
class Flow:
    """What one block is asked: prompts shared or per image (0: none), outputs wanted, temperature."""

    batch: int
    prompts: int
    per_image: bool
    want: str
    temperature: str
    seed: int


flows = st.builds(
    Flow, batch=st.integers(1, 3), prompts=st.integers(0, 5), per_image=st.booleans(), want=st.sampled_from(["all", "tokens", "prefix"]),
    temperature=st.sampled_from(["none", "number", "tensor", "per image"]), seed=st.integers(0, 1000),
)


def answers(backbone, i, x, flow):
    """Outputs of block ``i``, and their gradients with respect to tokens, prompts and temperature."""
    generator = torch.Generator().manual_seed(flow.seed)
    batch = len(x)
    x = x.clone().requires_grad_()
    shape = (flow.prompts, x.shape[-1])
    prompts = torch.randn((batch, *shape) if flow.per_image else shape, generator=generator, dtype=x.dtype) if flow.prompts else None
    positive = torch.rand(batch, generator=generator, dtype=x.dtype) + 0.5
    temperature = {"none": 1.0, "number": 0.7, "tensor": positive[0], "per image": positive}[flow.temperature]
    learned = [t.requires_grad_() for t in (prompts, temperature) if isinstance(t, torch.Tensor)]
    want = "tokens" if flow.want == "prefix" and backbone.num_prefix_tokens == 0 else flow.want
    y, out = backbone.run_block(i, x, prompts, want, temperature)
    assert (out is not None) == (want == "all" and prompts is not None)
    outputs = [t for t in (y, out) if t is not None]
    loss = sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in outputs)
    return outputs, torch.autograd.grad(loss, [x, *learned])


def assert_paths_agree(backbone, flow, tolerance=1e-7):
    """Every block's opened path equals the generic one, in outputs and gradients.

    In double precision: random shapes make gradients that nearly cancel, such as a temperature's over two tokens.
    """
    backbone.double()
    x = backbone.embed(images_for(backbone, flow.batch))
    for i in range(backbone.depth):
        x, _ = backbone.merge(i, x, None)
        found = []
        for path in (nullcontext, reference_path):
            with path():
                found.append(answers(backbone, i, x, flow))
        for kind, fast, slow in zip(("output", "gradient"), *found, strict=True):
            for n, (a, b) in enumerate(zip(fast, slow, strict=True)):
                assert a.shape == b.shape
                assert worst(a, b) <= tolerance, f"block {i}, {kind} {n}: {worst(a, b):.2e}"
        x, _ = backbone.run_block(i, x)
