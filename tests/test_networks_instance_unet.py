"""The network that separates vertebrae: shapes, size, what it refuses, that it can learn."""

from __future__ import annotations

import pytest
import torch

from nnunet_spine_ext.networks.instance_unet import InstanceUNet


def test_it_has_the_size_of_spineps_network() -> None:
    """The number that spineps 2.1.3's network has with 11 channels."""
    network = InstanceUNet(11)
    assert sum(p.numel() for p in network.parameters()) == 1_361_924


@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 24, 8)])
@pytest.mark.parametrize("width", [4, 8])
def test_every_voxel_gets_four_logits(shape: tuple[int, int, int], width: int) -> None:
    network = InstanceUNet(3, width=width)
    assert network.multiple == 8
    with torch.no_grad():
        assert network(torch.rand(2, 3, *shape)).shape == (2, 4, *shape)


def test_a_shallow_one_takes_smaller_steps() -> None:
    network = InstanceUNet(1, width=8, multipliers=(1, 2), out=2)
    assert network.multiple == 2
    with torch.no_grad():
        assert network(torch.rand(1, 1, 6, 4, 2)).shape == (1, 2, 6, 4, 2)


@pytest.mark.parametrize("shape", [(1, 3, 12, 8, 8), (1, 2, 8, 8, 8), (3, 8, 8, 8), (1, 3, 0, 8, 8)])
def test_what_does_not_fit_is_refused_with_the_numbers(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, P, I, R\) with P, I and R multiples of 8"):
        InstanceUNet(3, width=4)(torch.zeros(shape))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="width 0"):
        InstanceUNet(3, width=0)


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    network = InstanceUNet(2, width=4).eval()
    batch = torch.rand(2, 2, 8, 16, 8)
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(batch[k : k + 1]) for k in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = InstanceUNet(2, width=4)
    network(torch.rand(1, 2, 16, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())
