"""Networks for slices, their loss, and the parameters that the paper counts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from house import ROOT, setup_cfg
from safetensors.torch import load_file, save_file
from torch import nn

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.losses.dice_iou import DiceIoULoss
from nnunet_spine_ext.networks.slice_unet import SliceNetworkShape, SliceUNet, SmpSliceUNet

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "oracle_smp.json").read_text(encoding="utf-8"))
# Kim et al., IEEE Access 2024, table 2, in millions.
TABLE_2 = {
    ("Unet", "resnet34"): 24.4, ("UnetPlusPlus", "resnet34"): 26.1, ("DeepLabV3", "resnet34"): 26.0,
    ("Unet", "resnet50"): 32.5, ("UnetPlusPlus", "resnet50"): 49.0, ("DeepLabV3", "resnet50"): 39.6,
    ("Unet", "resnet101"): 51.5, ("UnetPlusPlus", "resnet101"): 68.0, ("DeepLabV3", "resnet101"): 58.6,
}  # fmt: skip


def test_the_parameters_of_table_2_are_reproduced() -> None:
    found = {(row["architecture"], row["encoder"]): row for row in FIXTURE["networks"]}
    assert found.keys() == TABLE_2.keys()
    for key, millions in TABLE_2.items():
        assert round(found[key]["parameters"] / 1e6, 1) == millions, key
        assert found[key]["output_shape"] == [1, 1, 70, 45]
        assert found[key]["gradient_reaches_slice"]


@pytest.mark.skipif(not (ROOT / ".oracles/smp/bin/python").exists(), reason="make smp was not run")
def test_the_package_itself_still_counts_so() -> None:
    code = (
        "from nnunet_spine_ext.networks.slice_unet import SliceNetworkShape as S\n"
        "print(sum(p.numel() for p in S(kind='smp').build().parameters()))"
    )
    command = [str(ROOT / ".oracles/smp/bin/python"), "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert int(found.stdout) == FIXTURE["networks"][0]["parameters"]


def test_the_extra_names_the_package() -> None:
    assert "segmentation-models-pytorch" in setup_cfg()["options.extras_require"]["harmonize"]


# nnU-Net's U-Net


def test_the_unet_takes_slices_of_any_size_and_the_gradient_reaches_them() -> None:
    network = SliceUNet((4, 8, 8), convolutions=1)
    assert network.multiple == 4
    for size in ((16, 16), (17, 30), (3, 5)):
        slices = (torch.rand(2, 1, *size) * 255).requires_grad_()
        logits = network(slices)
        assert logits.shape == slices.shape
        logits.sum().backward()
        assert slices.grad is not None
        assert (slices.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("size", [(4, 4), (4, 2), (1, 1)])
def test_slices_as_small_as_one_coarsest_pixel_are_answered(size: tuple[int, int]) -> None:
    network = SliceUNet((4, 8, 8), convolutions=1)
    slices = torch.rand(1, 1, *size) * 255
    assert network(slices).isfinite().all()
    assert network(slices).shape == slices.shape


def test_filling_up_changes_nothing_where_nothing_is_filled_up() -> None:
    torch.manual_seed(0)
    network = SliceUNet((4, 8), convolutions=1).eval()
    slices = torch.rand(1, 1, 8, 8) * 255
    assert torch.equal(network(slices), network.logits(slices))


def test_one_seed_gives_one_network() -> None:
    def weights() -> torch.Tensor:
        torch.manual_seed(3)
        return torch.cat([p.flatten() for p in SliceNetworkShape(features=(4, 8)).build().parameters()])

    assert torch.equal(weights(), weights())


def test_every_weight_has_one_name_in_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, other = SliceUNet((4, 8), 1), SliceUNet((4, 8), 1)
    state = network.state_dict()
    assert list(state) == [name for name, _ in network.named_parameters()]
    save_file(state, tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    slices = torch.rand(1, 1, 8, 8) * 255
    assert torch.equal(network(slices), other(slices))
    # Inside another module, too.
    outer = nn.Sequential(SliceUNet((4, 8), 1))
    outer.load_state_dict({f"0.{name}": value for name, value in state.items()})
    assert torch.equal(outer(slices), network(slices))
    missing = dict(list(state.items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(missing)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 8, 8), (0, 1, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 1, Y, X\)"):
        SliceUNet((4, 8))(torch.zeros(shape))


@pytest.mark.parametrize(("features", "convolutions"), [((), 2), ((8,), 2), ((8, 0), 2), ((8, 8), 0)])
def test_impossible_sizes_are_refused(features: tuple[int, ...], convolutions: int) -> None:
    with pytest.raises(ValueError, match="at least two resolutions"):
        SliceUNet(features, convolutions)
    with pytest.raises(UsageError) as error:
        SliceNetworkShape(features=features, convolutions=convolutions)
    assert error.value.code == "E-CONFIG-RANGE"


# segmentation-models-pytorch, played by a small network


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)


class _Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.head = nn.Conv2d(2, 1, 1)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach())
        found: torch.Tensor = self.head(self.encoder.bn1(self.encoder.conv1(x)))
        return found


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stand in for the package; returns the calls."""
    calls: list[tuple[Any, ...]] = []

    def create_model(arch: str, encoder_name: str, **options: Any) -> nn.Module:
        if encoder_name == "resnet43":
            raise KeyError(encoder_name)
        calls.append((arch, encoder_name, options))
        return _Body()

    module = types.ModuleType("segmentation_models_pytorch")
    module.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", module)
    return calls


def test_nothing_is_downloaded_and_the_slice_goes_into_three_colours(package: list[tuple[Any, ...]]) -> None:
    network = SliceNetworkShape(kind="smp", architecture="DeepLabV3", encoder="resnet50").build()
    assert package == [("DeepLabV3", "resnet50", {"encoder_weights": None, "in_channels": 3, "classes": 1})]
    logits = network(torch.full((1, 1, 20, 33), 255.0))
    assert logits.shape == (1, 1, 20, 33)
    body = network.body
    assert isinstance(body, _Body)
    assert body.seen[0].shape == (1, 3, 32, 64)
    assert body.seen[0][0, :, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, 0.594 / 0.225])


def test_weights_of_an_encoder_come_from_a_local_file(package: list[tuple[Any, ...]], tmp_path: Path) -> None:
    weights = {name: torch.randn(value.shape) for name, value in _Encoder().state_dict().items() if value.ndim}
    weights["fc.weight"] = torch.zeros(1000, 2)
    save_file(weights, tmp_path / "encoder.safetensors")
    torch.save(weights, tmp_path / "encoder.pth")
    for name in ("encoder.safetensors", "encoder.pth"):
        network = SmpSliceUNet(encoder_weights=tmp_path / name)
        assert torch.equal(network.body.encoder.conv1.weight, weights["conv1.weight"])


def test_weights_that_do_not_fit_are_refused(package: list[tuple[Any, ...]], tmp_path: Path) -> None:
    good = _Encoder().state_dict()
    save_file({n: v for n, v in good.items() if n != "bn1.bias"}, tmp_path / "missing.safetensors")
    save_file(good | {"conv1.weight": torch.zeros(2, 1, 3, 3)}, tmp_path / "shape.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    for name, hint in (("missing", "bn1.bias is missing"), ("shape", "conv1.weight has"), ("broken", "cannot be read")):
        with pytest.raises(SetupError, match=hint) as error:
            SmpSliceUNet(encoder_weights=tmp_path / f"{name}.safetensors")
        assert error.value.code == "E-MODEL-WEIGHTS"
    with pytest.raises(SetupError) as error:
        SmpSliceUNet(encoder_weights=tmp_path / "absent.pth")
    assert error.value.code == "E-MODEL-CHECKPOINT"


def test_an_unknown_encoder_and_weights_for_none_are_refused(package: list[tuple[Any, ...]]) -> None:
    with pytest.raises(UsageError, match="resnet43"):
        SliceNetworkShape(kind="smp", encoder="resnet43").build()
    with pytest.raises(UsageError, match=r"network\.kind=smp"):
        SliceNetworkShape().build("encoder.pth")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(SetupError, match=r"pip install 'nnunet-spine-ext\[harmonize\]'") as error:
        SliceNetworkShape(kind="smp").build()
    assert error.value.code == "E-ENV-EXTRA"


# The loss


def _logits(chance: torch.Tensor) -> torch.Tensor:
    return torch.logit(chance.double())


def test_the_loss_is_dice_and_iou_by_hand() -> None:
    chance = torch.tensor([[0.9, 0.2], [0.6, 0.1]])[None, None]
    target = torch.tensor([[1, 0], [1, 0]])[None, None]
    both, p, y = 1.5, 1.8, 2.0
    dice, iou = 1 - (2 * both + 0.5) / (p + y + 0.5), 1 - (both + 0.5) / (p + y - both + 0.5)
    loss = DiceIoULoss(2, 3, smooth=0.5)(_logits(chance), target)
    assert float(loss) == pytest.approx(2 * dice + 3 * iou)
    entropy = -sum(map(math.log, (0.9, 0.8, 0.6, 0.9))) / 4
    assert float(DiceIoULoss(0, 0, 1)(_logits(chance), target)) == pytest.approx(entropy)


def test_unknown_pixels_do_not_count() -> None:
    chance, target = torch.tensor([[0.9, 0.2, 0.5]])[None, None], torch.tensor([[1, 0, 255]])[None, None]
    known = target != 255
    loss = DiceIoULoss(bce_weight=1)
    whole = loss(_logits(chance), torch.where(known, target, 0), known)
    assert float(whole) == pytest.approx(float(loss(_logits(chance[..., :2]), target[..., :2])))


def test_nothing_found_where_nothing_is_costs_nothing_and_something_found_has_a_gradient() -> None:
    target = torch.zeros(1, 1, 4, 4)
    assert float(DiceIoULoss()(torch.full((1, 1, 4, 4), -40.0), target)) == pytest.approx(0, abs=1e-6)
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    DiceIoULoss()(logits, target).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_impossible_weights_are_refused() -> None:
    for weights in ((-1.0, 1.0, 0.0), (0.0, 0.0, 0.0)):
        with pytest.raises(ValueError, match="weights from 0 on"):
            DiceIoULoss(*weights)
    with pytest.raises(ValueError, match="smooth 0"):
        DiceIoULoss(smooth=0.0)
