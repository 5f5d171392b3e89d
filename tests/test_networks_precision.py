"""Networks in bfloat16: when they are, what stays single precision, and that nothing but rounding changes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nnunet_spine_ext.core.device import Precision
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.networks import precision
from nnunet_spine_ext.networks.bottleneck import BottleneckNetwork, WithFeatures
from nnunet_spine_ext.networks.precision import (
    chosen_bf16,
    computed_precision,
    prepare_for_bf16,
    train_in_bf16,
    use_single_precision,
)

CPU = torch.device("cpu")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine's CPU count as one that computes in bfloat16; PyTorch does so on all, be it slowly."""
    monkeypatch.setattr(precision, "has_bf16", lambda _: True)


class Encoder(nn.Module):
    def __init__(self, kind: type[nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        self.first = nn.Sequential(kind(1, 12, 3, padding=1), norm(12, affine=True), nn.LeakyReLU(inplace=True))
        self.second = nn.Sequential(kind(12, 8, 3, padding=1, stride=2), norm(8, affine=True), nn.LeakyReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.first(x)
        return [fine, self.second(fine)]


class Decoder(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.fine, self.coarse = kind(12, 3, 1), kind(8, 3, 1)

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        return [self.fine(skips[0]), self.coarse(skips[1])]


class Network(nn.Module):
    def __init__(self, dimensions: int) -> None:
        super().__init__()
        kind, norm = (nn.Conv2d, nn.InstanceNorm2d) if dimensions == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        self.encoder, self.decoder = Encoder(kind, norm), Decoder(kind)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.decoder(self.encoder(x))


def network(dimensions: int) -> Network:
    torch.manual_seed(0)
    return Network(dimensions)


@pytest.mark.parametrize(
    ("asked", "kind", "has", "expected"),
    [
        ("fp32", "cpu", True, False),
        ("auto", "cpu", True, True),
        ("auto", "cpu", False, False),
        ("auto", "cuda", True, False),
        ("bf16", "cpu", False, True),  # whoever asks for it is refused later
        ("bf16", "cuda", True, True),
    ],
)
def test_auto_is_bf16_on_a_cpu_that_has_it(
    asked: Precision, kind: str, has: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_instructions", lambda: {"avx512_bf16"} if has else {"avx2"})
    assert chosen_bf16(asked, torch.device(kind)) is expected


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_normalization_with_channels_last_is_instance_normalization(dimensions: int, samples: int, able: None) -> None:
    plain = network(dimensions)
    laid_out = deepcopy(plain)
    prepare_for_bf16(laid_out, CPU)
    image = torch.randn(samples, 1, *(14, 12, 10)[:dimensions]) * torch.arange(1, samples + 1).view(
        -1, *(1,) * (dimensions + 1)
    )
    answers = plain(image), laid_out(image)
    for expected, found in zip(*answers, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for answer in answers:
        sum(part.square().sum() for part in answer).backward()
    for (name, expected), (_, found) in zip(plain.named_parameters(), laid_out.named_parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_maps_stay_channels_last(able: None) -> None:
    own = network(3)
    prepare_for_bf16(own, CPU)
    fine = own.encoder(torch.randn(2, 1, 8, 8, 8))[0]
    assert fine.is_contiguous(memory_format=torch.channels_last_3d)
    assert not fine.is_contiguous()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_training_in_bf16_answers_and_learns_in_single_precision(dimensions: int, able: None) -> None:
    plain = network(dimensions)
    own = deepcopy(plain)
    train_in_bf16(own, CPU)
    image = torch.randn(2, 1, *(14, 12, 10)[:dimensions])
    answers = own(image)
    assert isinstance(answers, list)
    assert {answer.dtype for answer in answers} == {torch.float32}
    single = plain(image)
    for expected, found in zip(single, answers, strict=True):
        assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max(), "bfloat16, and near"
    answers[0].square().mean().backward()
    single[0].square().mean().backward()
    found, expected = own.encoder.first[0].weight, plain.encoder.first[0].weight
    assert found.dtype == torch.float32
    assert found.grad is not None
    assert expected.grad is not None
    assert found.grad.dtype == torch.float32
    assert (found.grad - expected.grad).norm() < 0.1 * expected.grad.norm()
    assert list(own.state_dict()) == list(plain.state_dict()), "stock checkpoints load"


def test_features_for_a_classifier_of_domains_are_single_precision(able: None) -> None:
    own = BottleneckNetwork(network(2))
    train_in_bf16(own, CPU)
    answer = own(torch.randn(2, 1, 16, 16))
    assert isinstance(answer, WithFeatures)
    assert answer.features.dtype == answer.segmentation[0].dtype == torch.float32
    assert isinstance(own.eval()(torch.randn(2, 1, 16, 16)), list)


def test_a_network_in_bf16_can_be_copied(able: None) -> None:
    own = network(2)
    train_in_bf16(own, CPU)
    twin = deepcopy(own)
    image = torch.randn(1, 1, 16, 16)
    before = own(image)[0]
    assert torch.equal(twin(image)[0], before)
    with torch.no_grad():
        twin.decoder.fine.weight.zero_()
        twin.encoder.first[1].weight.zero_()
    assert torch.equal(own(image)[0], before)
    assert not torch.equal(twin(image)[0], before)


def test_a_device_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda _: False)
    with pytest.raises(SetupError) as caught:
        train_in_bf16(network(2), CPU)
    assert caught.value.code == "E-ENV-BF16"


def test_arm_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_instructions", lambda: {"bf16", "asimd"})
    assert precision.has_bf16(CPU)
    assert not chosen_bf16("auto", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 2, 96, 160, 160), (2, 3, 1, 512, 512), (1, 4, 10, 12, 14)])
def test_large_maps_are_normalized_and_differentiated_exactly(
    shape: tuple[int, ...], dtype: torch.dtype, able: None
) -> None:
    torch.manual_seed(0)
    # Mostly constant, as beyond the body: small terms are lost when they are added to a large sum.
    far = torch.rand(shape[2:]) < 0.9
    values = torch.where(far, torch.tensor(-5.0), torch.randn(shape))
    features = values.to(dtype).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    gradient = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    norm = nn.InstanceNorm3d(shape[1], affine=True)
    nn.init.normal_(norm.weight)
    exact = deepcopy(norm).double()
    prepare_for_bf16(norm, CPU)
    found = norm(features)
    found.backward(gradient)
    same = features.detach().double().contiguous().requires_grad_()
    expected = exact(same)
    expected.backward(gradient.double().contiguous())
    assert found.dtype == features.grad.dtype == dtype
    # What rounding to bfloat16 leaves is 0.0017.
    close = 2e-3 if dtype == torch.bfloat16 else 1e-4
    for one, other in ((found.detach(), expected.detach()), (features.grad, same.grad)):
        assert float((one.double() - other).norm() / other.norm()) < close
    for one, other in ((norm.weight.grad, exact.weight.grad), (norm.bias.grad, exact.bias.grad)):
        assert float((one - other).norm() / other.norm()) < 1e-4
    with torch.inference_mode():
        assert torch.equal(norm(features), found)


def test_normalization_without_parameters_has_a_gradient(able: None) -> None:
    norm = nn.InstanceNorm2d(2)
    plain = deepcopy(norm)
    prepare_for_bf16(norm, CPU)
    own, same = (torch.arange(36.0).view(1, 2, 3, 6).sin().requires_grad_() for _ in range(2))
    norm(own).pow(3).sum().backward()
    plain(same).pow(3).sum().backward()
    torch.testing.assert_close(own.grad, same.grad)


def test_a_single_voxel_is_refused_as_by_pytorch(able: None) -> None:
    norm = nn.InstanceNorm2d(2)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        norm(torch.ones(1, 2, 1, 1))
    prepare_for_bf16(norm, CPU)
    with torch.no_grad(), pytest.raises(ValueError, match="more than 1 spatial element"):
        norm(torch.ones(1, 2, 1, 1))


def test_a_network_may_answer_with_a_tuple(able: None) -> None:
    class Two(nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return image.bfloat16(), image.bfloat16() + 1

    own = Two()
    train_in_bf16(own, CPU)
    answer = own(torch.zeros(3))
    assert isinstance(answer, tuple)
    assert [part.dtype for part in answer] == [torch.float32] * 2


@pytest.mark.parametrize(
    ("system", "line", "expected"),
    [
        ("Linux", "flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("Linux", "flags\t\t: fpu avx512f avx512_bf16x", False),
        ("Linux", "Features\t: fp asimd bf16", False),
        ("Darwin", "flags\t\t: avx512_bf16", False),
        ("Linux", None, False),
    ],
)
def test_instructions_are_those_that_linux_tells(
    system: str, line: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    if line is not None:
        file.write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(precision, "_CPUINFO", file)
    monkeypatch.setattr("platform.system", lambda: system)
    precision._instructions.cache_clear()
    try:
        assert chosen_bf16("auto", CPU) is expected
        assert computed_precision("auto", "cpu") == ("bf16" if expected else "fp32")
    finally:
        precision._instructions.cache_clear()


def test_single_precision_comes_back(able: None) -> None:
    plain = network(3)
    own = deepcopy(plain)
    train_in_bf16(own, CPU)
    use_single_precision(own)
    image = torch.randn(2, 1, 8, 8, 8)
    assert torch.equal(own(image)[0], plain(image)[0])
    other = deepcopy(plain).to(memory_format=torch.channels_last_3d)
    use_single_precision(other)
    assert other.encoder.first[0].weight.is_contiguous(memory_format=torch.channels_last_3d), "not touched"
