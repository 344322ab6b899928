"""MAE: what it draws, hides and predicts; its loss falls."""

import pytest
import torch
from pretraining.tiny import settings

from promptvit.pretraining.loop import Run
from promptvit.pretraining.mae import MAE, MAESettings


def drawn(model: MAE, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return model.draw(torch.Generator().manual_seed(seed), slice(None))


def test_the_encoder_sees_only_what_is_kept():
    model = MAE(settings("mae"))
    images, order = drawn(model)
    assert order.shape == (8, 16) and torch.equal(order.sort(dim=1).values, torch.arange(16).expand(8, -1))
    kept = order[:, :4, None]
    hidden = torch.nn.functional.one_hot(order[:, 4:], 16).sum(dim=1).reshape(8, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(model.encode(images, kept), model.encode(images + hidden, kept))
    assert not torch.allclose(model.encode(images, kept), model.encode(images + 1 - hidden, kept))


def test_patches_are_rows_first_and_channels_last():
    model = MAE(settings("mae"))
    images = torch.arange(3 * 32 * 32.0).reshape(1, 3, 32, 32)
    patch = model.patches(images)[0, 5].reshape(8, 8, 3)  # second row, second column of four
    assert torch.equal(patch, images[0, :, 8:16, 8:16].permute(1, 2, 0))


def test_the_loss_of_knowing_nothing_is_one_on_varied_patches():
    model = MAE(settings("mae", batch_size=64))
    torch.nn.init.zeros_(model.decoder_pred.weight)
    torch.nn.init.zeros_(model.decoder_pred.bias)
    _, order = drawn(model)
    loss = model(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)), order)
    assert loss.item() == pytest.approx(191 / 192, abs=1e-4)  # unbiased variance of 192 values


def test_loss_falls():
    run = Run(settings("mae", steps=60, batch_size=16))
    losses = [run.step() for _ in range(60)]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


def test_positions_stay_fixed():
    run = Run(settings("mae"))
    before = run.objective.encoder.pos_embed.clone()
    run.step()
    assert torch.equal(run.objective.encoder.pos_embed, before)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="decoder_width"):
        MAESettings(decoder_width=18)
    with pytest.raises(ValueError, match="patch_size"):
        MAESettings(patch_size=5)
    for ratio in (0.001, 0.999):
        with pytest.raises(ValueError, match=f"mask_ratio must hide at least one of the 64 patches and leave one, got {ratio}"):
            MAESettings(mask_ratio=ratio)
    with pytest.raises(ValueError, match="seed"):
        MAESettings(seed=10**13)
    with pytest.raises(ValueError, match="temperature"):
        MAESettings(temperature=0.1)
