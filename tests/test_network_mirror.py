"""The network that mirrors left and right in evaluation mode: same weights, same keys, one more view."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nnunet_spine_ext.networks.mirror import SidedMirrorNetwork, one_sided

PAIRS = [(1, 2)]


class Plain(nn.Module):
    """A small network whose answer depends on the side, with deep supervision like nnU-Net's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.decoder = nn.Conv3d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.relu(self.norm(self.encoder(x))))


@pytest.fixture
def plain() -> Plain:
    torch.manual_seed(0)
    return Plain()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 1, 5, 6, 7, generator=torch.Generator().manual_seed(1))


def test_state_dict_keys_are_those_of_the_network(plain: Plain) -> None:
    wrapped = SidedMirrorNetwork(plain, 2, PAIRS)
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in wrapped.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_weights_load_strictly_both_ways(plain: Plain, image: torch.Tensor) -> None:
    other = copy.deepcopy(plain)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    wrapped = SidedMirrorNetwork(plain, 2, PAIRS).train()
    wrapped.load_state_dict(other.state_dict(), strict=True)
    # The wrapped network itself got them, not a copy.
    assert torch.equal(wrapped(image), other.train()(image))
    fresh = Plain()
    fresh.load_state_dict(wrapped.state_dict(), strict=True)
    assert torch.equal(fresh(image), other(image))


def test_training_mode_is_untouched(plain: Plain, image: torch.Tensor) -> None:
    wrapped = SidedMirrorNetwork(plain, 2, PAIRS)
    assert torch.equal(wrapped.train()(image), plain.train()(image))
    wrapped(image).sum().backward()
    assert plain.encoder.weight.grad is not None


def test_a_network_that_asks_for_its_own_mode_gets_the_right_answer(image: torch.Tensor) -> None:
    class Moody(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.dropout(x, 0.5, training=self.training))

    wrapped = SidedMirrorNetwork(Moody(), 2, PAIRS)
    assert torch.equal(wrapped.eval()(image), wrapped.eval()(image))
    assert not torch.equal(wrapped.train()(image), wrapped.train()(image))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_evaluation_mode_is_the_mean_of_both_sides(plain: Plain, image: torch.Tensor, axis: int) -> None:
    wrapped = SidedMirrorNetwork(plain, axis, PAIRS).eval()
    mirrored = plain(image.flip(axis + 2)).flip(axis + 2)
    expected = plain(image)
    for channel, other in ((0, 0), (1, 2), (2, 1), (3, 3)):
        expected[:, channel] = (expected[:, channel] + mirrored[:, other]) / 2
    result = wrapped(image)
    assert torch.allclose(result, expected, atol=1e-6)
    assert not torch.allclose(result, plain(image), atol=1e-3), "the test would show nothing"
    # What a mirrored image gets is the mirrored answer with sides exchanged, exactly.
    assert torch.equal(wrapped(image.flip(axis + 2)), result.flip(axis + 2)[:, [0, 2, 1, 3]])


def test_the_output_is_a_fresh_tensor(plain: Plain, image: torch.Tensor) -> None:
    # nnU-Net adds further views to it in place.
    wrapped = SidedMirrorNetwork(plain, 2, PAIRS).eval()
    before = image.clone()
    first = wrapped(image)
    second = first.clone()
    first += 1
    assert torch.equal(wrapped(image), second)
    assert torch.equal(image, before)


def test_switching_modes_reaches_the_network(plain: Plain) -> None:
    wrapped = SidedMirrorNetwork(plain, 2, PAIRS)
    for training in (False, True):
        wrapped.train(training)
        assert plain.encoder.training == plain.decoder.training == training


def test_a_network_with_loose_parameters_is_refused() -> None:
    network = Plain()
    network.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="scale"):
        SidedMirrorNetwork(network, 2, PAIRS)


def test_it_can_be_told_not_to_mirror_for_a_while(plain: Plain, image: torch.Tensor) -> None:
    wrapped = SidedMirrorNetwork(plain, 2, PAIRS).eval()
    both = wrapped(image)
    around = nn.Sequential(wrapped)

    def look() -> None:
        with one_sided(around):
            assert torch.equal(around(image), plain(image))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look()
    assert torch.equal(around(image), both)
