"""Generator, discriminator and losses of harmonization."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_spine_ext.losses.adversarial import ReplayPool, adversarial_loss, discriminator_loss
from nnunet_spine_ext.losses.slice_dice import foreground_floor, slice_dice_loss
from nnunet_spine_ext.networks.patch_gan import PatchGAN
from nnunet_spine_ext.networks.transformer_net import TransformerNet, Upsampling


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("size", [(64, 48), (41, 30), (8, 8)])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_generator_keeps_size_and_scale(size: tuple[int, int], residual: bool, upsampling: Upsampling) -> None:
    torch.manual_seed(0)
    network = TransformerNet(4, 2, residual=residual, upsampling=upsampling)
    out = network(torch.rand(2, 1, *size) * 2 - 1)
    assert out.shape == (2, 1, *size)
    assert out.abs().max() <= 1


def test_generator_of_the_paper_has_its_size_and_an_aid_starts_with_nothing() -> None:
    assert parameters(TransformerNet()) == pytest.approx(1.669e6, rel=0.01)
    assert parameters(TransformerNet(blocks=9)) == pytest.approx(2.852e6, rel=0.01)
    image = torch.rand(1, 1, 32, 32) * 2 - 1
    assert torch.equal(TransformerNet(4, 1, residual=True)(image), image)


def test_repeated_pixels_leave_no_checkerboard_where_transposed_ones_do() -> None:
    """In a constant slice, rows of one parity look like those of the other, but for the normalization's rounding."""

    def board(upsampling: Upsampling) -> float:
        torch.manual_seed(0)
        network = TransformerNet(4, 0, upsampling=upsampling)
        inner = network.tail(torch.full((1, 16, 16, 16), 0.5))[0, :, 12:-12, 12:-12]
        inner = inner.detach()
        return float((inner[:, ::2] - inner[:, 1::2]).abs().max() / inner.abs().max().clamp_min(1e-6))

    assert board("nearest") < 1e-3
    assert board("transposed") > 0.1


def test_generator_treats_the_slices_of_a_batch_one_by_one() -> None:
    torch.manual_seed(0)
    network, images = TransformerNet(4, 2), torch.rand(3, 1, 32, 32)
    together = network(images)
    assert torch.allclose(together, torch.cat([network(image[None]) for image in images]), atol=1e-5)


def test_one_score_depends_on_34_pixels() -> None:
    """Proven by back-propagating one score; without normalization, which looks at the whole slice."""
    torch.manual_seed(0)
    network = PatchGAN(8)
    for number, layer in enumerate(network.layers):
        if isinstance(layer, torch.nn.InstanceNorm2d):
            network.layers[number] = torch.nn.Identity()
    image = torch.rand(1, 1, 96, 96, requires_grad=True)
    scores = network(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert image.grad is not None
    rows, columns = (image.grad[0, 0] != 0).nonzero(as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == 34 == PatchGAN.receptive_field()
    assert int(columns.max() - columns.min()) + 1 == 34


def test_discriminator_of_the_paper_has_its_size() -> None:
    network = PatchGAN()
    assert network(torch.zeros(1, 1, 320, 320)).shape == (1, 1, 78, 78)
    assert parameters(network) == pytest.approx(0.661e6, rel=0.01)


@pytest.mark.parametrize("form", ["lsgan", "bce"])
def test_a_discriminator_that_is_right_costs_little(form: str) -> None:
    high = 1.0 if form == "lsgan" else 20.0
    low = 0.0 if form == "lsgan" else -20.0
    right, wrong = torch.full((2, 1, 3, 3), high), torch.full((2, 1, 3, 3), low)
    assert discriminator_loss(right, wrong, form) < 1e-6  # type: ignore[arg-type]
    assert discriminator_loss(wrong, right, form) > 0.9  # type: ignore[arg-type]
    assert adversarial_loss(wrong, real=True, form=form) > 0.9  # type: ignore[arg-type]


def test_pool_fills_then_exchanges_half_and_is_part_of_a_state() -> None:
    pool, rng = ReplayPool(4, (2, 2)), np.random.default_rng(0)
    first = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    assert torch.equal(pool.exchange(first, rng), first)
    later = torch.full((200, 1, 2, 2), 9.0)
    given = pool.exchange(later, rng)
    assert given.shape == later.shape
    assert set(given.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 9.0}
    assert {0.0, 1.0, 2.0, 3.0} <= set(given.unique().tolist())
    again = ReplayPool(4, (2, 2))
    again.load_state_dict(pool.state_dict())
    assert int(again.filled) == 4
    assert torch.equal(again.slices, torch.full((4, 1, 2, 2), 9.0))


def test_pool_gives_every_second_slice_from_memory() -> None:
    pool, rng = ReplayPool(10, (1, 1)), np.random.default_rng(1)
    pool.exchange(torch.zeros(10, 1, 1, 1), rng)
    # Unlike any slice in the pool, one by one.
    fresh = [float(pool.exchange(torch.full((1, 1, 1, 1), float(k)), rng)) == k for k in range(1, 401)]
    assert 160 < sum(fresh) < 240


def test_pool_gives_what_it_has_and_says_when_it_is_empty() -> None:
    pool, rng = ReplayPool(4, (1, 1)), np.random.default_rng(2)
    assert pool.draw(2, rng) is None
    pool.exchange(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1), rng)
    drawn = pool.draw(50, rng)
    assert drawn is not None
    assert set(drawn.flatten().tolist()) == {1.0, 2.0}


def test_no_pool_gives_slices_back_without_gradient() -> None:
    images = torch.rand(2, 1, 3, 3, requires_grad=True)
    given = ReplayPool(0, (3, 3)).exchange(images, np.random.default_rng(0))
    assert torch.equal(given, images)
    assert not given.requires_grad


def test_slice_dice_is_the_mean_of_slices_and_gives_the_truth_no_gradient() -> None:
    torch.manual_seed(0)
    found = torch.rand(3, 1, 6, 5, requires_grad=True)
    truth = (torch.rand(3, 1, 6, 5) > 0.5).float().requires_grad_()
    loss = slice_dice_loss(found, truth)
    single = torch.stack([slice_dice_loss(found[k : k + 1], truth[k : k + 1]) for k in range(3)]).mean()
    assert torch.allclose(loss, single)
    loss.backward()
    assert truth.grad is None
    assert found.grad is not None
    assert float(slice_dice_loss(truth, truth).detach()) == pytest.approx(0, abs=1e-6)
    empty = torch.zeros(1, 1, 4, 4)
    assert float(slice_dice_loss(empty, empty)) == 0


def test_floor_costs_only_what_lies_below_it_and_pulls_up() -> None:
    low = torch.full((1, 1, 4, 4), 0.01, requires_grad=True)
    loss = foreground_floor(low, 0.04)
    assert float(loss.detach()) == pytest.approx(0.75)
    loss.backward()
    assert low.grad is not None
    assert (low.grad < 0).all()
    assert foreground_floor(torch.full((1, 1, 4, 4), 0.05), 0.04) == 0
    assert foreground_floor(low, 0.0) == 0
