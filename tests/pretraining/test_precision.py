"""What a GPU would run, on the CPU: bfloat16 autocast gives nearly the same loss, and finite gradients."""

import pytest
import torch
from pretraining.tiny import settings

from promptvit.pretraining.loop import OBJECTIVES


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_bfloat16_gives_nearly_the_same_loss(objective):
    torch.manual_seed(0)
    model = OBJECTIVES[objective](settings(objective))
    batch = model.draw(torch.Generator().manual_seed(0), slice(None))
    exact = model(*batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*batch)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
