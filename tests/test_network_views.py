"""Intensity views inside the network: same weights and keys, one curve for all patches; stock prediction runs it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_builder import LABELS14, SIDED14, make_image, make_model, stock_predict
from torch import nn

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.networks.mirror import SidedMirrorNetwork
from nnunet_spine_ext.networks.views import BLACK, IntensityViewsNetwork, PatchBias, PatchGamma, shading

CHANGES = [PatchGamma(0.7), PatchGamma(1.4), PatchBias(0.3), PatchBias(-0.3)]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv3d(1, 4, 3, padding=1)
        self.decoder = nn.Conv3d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.relu(self.encoder(x)))


@pytest.fixture
def plain() -> Plain:
    torch.manual_seed(0)
    return Plain()


@pytest.fixture
def patch() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))


def test_keys_and_training_are_those_of_the_network(plain: Plain, patch: torch.Tensor) -> None:
    other = copy.deepcopy(plain)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    wrapped = IntensityViewsNetwork(plain, CHANGES)
    assert list(wrapped.state_dict()) == list(other.state_dict())
    wrapped.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(wrapped.train()(patch), other(patch))
    wrapped(patch).sum().backward()
    assert plain.encoder.weight.grad is not None
    assert torch.equal(IntensityViewsNetwork(plain, []).eval()(patch), plain(patch))


def test_evaluation_is_the_mean_over_the_patch_and_its_views(plain: Plain, patch: torch.Tensor) -> None:
    before = patch.clone()
    wrapped = IntensityViewsNetwork(plain, CHANGES).eval()
    expected = (plain(patch) + sum(plain(change(patch)) for change in CHANGES)) / 5
    found = wrapped(patch)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(patch, before)
    found += 1  # nnU-Net adds further views in place
    assert torch.allclose(wrapped(patch), expected, atol=1e-6)


def test_it_wraps_the_network_that_mirrors(plain: Plain, patch: torch.Tensor) -> None:
    mirrored = SidedMirrorNetwork(plain, 2, [(1, 2)])
    wrapped = IntensityViewsNetwork(mirrored, CHANGES[:2])
    for mode in (True, False):
        wrapped.train(mode)
        assert mirrored.training == plain.training == plain.encoder.training == mode
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    # Curves do not know where they are, so the mirrored patch still gets the mirrored answer with sides exchanged.
    result = wrapped(patch)
    assert torch.allclose(wrapped(patch.flip(4)), result.flip(4)[:, [0, 2, 1, 3]], atol=1e-6)


def test_loose_parameters_are_refused(plain: Plain) -> None:
    plain.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="scale"):
        IntensityViewsNetwork(plain, CHANGES)


@pytest.mark.parametrize("gamma", [0.7, 1.4])
def test_gamma_is_one_curve_for_all_patches(gamma: float) -> None:
    values = torch.linspace(-2.5, 8, 500).reshape(1, 1, 5, 10, 10)
    curve = PatchGamma(gamma)(values)
    assert (curve.reshape(-1).diff() > 0).all()
    fixed = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 1, 2)
    assert torch.allclose(PatchGamma(gamma)(fixed), fixed, atol=1e-5)
    # The same voxels in another patch become the same: no seam where windows meet.
    assert torch.allclose(PatchGamma(gamma)(values[:, :, :2]), curve[:, :, :2], atol=1e-5)
    assert PatchGamma(gamma)(torch.full((1, 1, 1, 1, 1), BLACK - 5.0)) == PatchGamma(gamma)(
        torch.full((1, 1, 1, 1, 1), BLACK)
    )
    assert torch.isfinite(PatchGamma(gamma)(torch.full((1, 1, 1, 1, 1), -1e4))).all()


def test_shading_is_smooth_and_of_the_strength_that_was_asked_for() -> None:
    for shape in ((16, 20, 24), (16, 20), (1, 20, 24)):
        field = shading(shape, 0.4)
        assert float(field.max() / field.min()) == pytest.approx(np.exp(0.4), rel=1e-4)
        assert torch.allclose(field * shading(shape, -0.4), torch.ones(shape), atol=1e-5)
        assert max(float(field.diff(dim=axis).abs().max()) for axis in range(field.ndim) if shape[axis] > 1) < 0.1
    cube = shading((9, 9, 9), 0.4)
    for axes in ((0,), (1,), (2,), (0, 1, 2)):
        assert not torch.allclose(cube, cube.flip(axes), atol=1e-2)


def test_half_precision_and_channels_stay(patch: torch.Tensor) -> None:
    both = torch.cat([patch, patch], dim=1).half()
    for change in (PatchGamma(0.7, [True, False]), PatchBias(0.3, [True, False])):
        changed = change(both)
        assert changed.dtype == torch.half
        assert torch.equal(changed[:, 1], both[:, 1])
        assert not torch.equal(changed[:, 0], both[:, 0])


def test_stock_prediction_runs_the_views_when_the_plans_ask(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", labels=LABELS14, sided=SIDED14)
    file = tmp_path / "in" / "a_0000.nii.gz"
    make_image(file, shape=(16, 16, 16))
    stock_predict(model, [file], tmp_path / "plain", mirror=False)
    plans = json.loads((model / "plans.json").read_text())
    plans["spine_ext"]["predict"] |= {"intensity_views": True, "views": {"gamma": [0.5], "bias": []}}
    (model / "plans.json").write_text(json.dumps(plans))
    stock_predict(model, [file], tmp_path / "views", mirror=False)
    plain, views = (read_volume(tmp_path / n / "a.nii.gz").array for n in ("plain", "views"))
    assert (plain != views).any()
    # The same by hand, with the network that mirrors left and right; random classes tie, so a few voxels may differ.
    made = SpinePredictor(device=torch.device("cpu"), progress=False, tta="mirror")
    made.initialize_from_trained_model_folder(model, None)
    made.allowed_mirroring_axes = None
    data, _ = made.prepare([file])
    network = made.network.eval()
    with torch.no_grad():
        expected = (network(data[None]) + network(PatchGamma(0.5)(data[None])))[0].argmax(dim=0)
    assert (expected.numpy().transpose(2, 1, 0) != views).mean() < 0.02
    # Our own predictor does what it is told by --tta, not by this setting.
    assert not isinstance(made.network, IntensityViewsNetwork)


def test_a_calibrated_scale_has_no_intensity_views(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", predict={"intensity_views": True})
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    (model / "plans.json").write_text(json.dumps(plans))
    file = tmp_path / "in" / "a_0000.nii.gz"
    make_image(file)
    with pytest.raises(SetupError) as caught:
        stock_predict(model, [file], tmp_path / "out")
    assert caught.value.code == "E-PLANS-VIEWS"


class Symmetric(nn.Module):
    """A network that knows left from right, and answers to a mirrored image with the mirrored answer, exactly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = torch.linspace(-1, 1, x.shape[4]).reshape(1, 1, 1, 1, -1)
        return torch.cat([x * 0, x + side * x, x - side * x, x * x], dim=1)


def test_a_symmetric_network_is_not_changed_by_mirroring() -> None:
    image = torch.randn(1, 1, 6, 7, 9, generator=torch.Generator().manual_seed(0))
    network = Symmetric()
    exchanged = [0, 2, 1, 3]
    assert torch.allclose(network(image.flip(4)), network(image).flip(4)[:, exchanged], atol=1e-6)
    wrapped = SidedMirrorNetwork(network, 2, [(1, 2)]).eval()
    assert torch.allclose(wrapped(image), network(image), atol=1e-6)
    # Without the exchange it would be, by as much as the sides differ.
    assert not torch.allclose(SidedMirrorNetwork(network, 2, []).eval()(image), network(image), atol=0.1)


@pytest.mark.parametrize("tta", ["mirror", "full"])
def test_a_mirrored_image_gets_the_mirrored_answer_with_sides_exchanged(tmp_path: Path, tta: str) -> None:
    from nnunet_spine_ext.inference.view_settings import ViewSettings

    model = make_model(tmp_path / "model", labels=LABELS14, sided=SIDED14)
    # All mirrored views and nothing else; others are mirrored in one way only.
    settings = ViewSettings(kinds=("mirror",), stop=False)
    made = SpinePredictor(device=torch.device("cpu"), progress=False, tta=tta, views=settings)  # type: ignore[arg-type]
    made.initialize_from_trained_model_folder(model, None)
    image = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    one = made.predict_logits_from_preprocessed_data(image)
    other = made.predict_logits_from_preprocessed_data(image.flip(3))
    order = list(range(15))
    for left, right in SIDED14:
        order[left], order[right] = right, left
    # One window: the Gaussian of even sizes is not symmetric, and with a single window it does not matter.
    assert torch.allclose(other, one.flip(3)[order], atol=1e-5)
    assert not torch.allclose(other, one.flip(3), atol=1e-2), "without exchanged sides the test would show nothing"
