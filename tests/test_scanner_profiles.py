"""Scanner profiles: strict files, severities, what lies between, pipelines, and phantoms at a scanner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from augment_checks import keys

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.profiles import (
    COMPONENTS,
    PROFILES,
    QUANTITIES,
    REFERENCE,
    Scanner,
    Severities,
    interpolate,
    load_profile,
    parse_scanner,
    profile_names,
)
from nnunet_spine_ext.augment.scanner_config import scanner_config
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.generate import phantom
from nnunet_spine_ext.phantom.protocols import PROTOCOLS
from nnunet_spine_ext.phantom.scan import ScanRequest, scan_subject
from nnunet_spine_ext.phantom.scanners import at_scanner

SIX = ["ge-1.5t", "ge-3t", "nako-siemens-3t", "philips-1.5t", "philips-3t", "siemens-1.5t"]
OTHERS = [name for name in SIX if name != REFERENCE]
BY_GAP = ["nako-siemens-3t", "philips-3t", "ge-3t", "siemens-1.5t", "ge-1.5t", "philips-1.5t"]
SPACING = (3.0, 0.5, 0.5)
CONTEXT = Context(shape=(8, 96, 80), spacing=SPACING, labels=tuple(range(15)))


def _taking(scanner: Scanner, context: Context, **options: Any) -> Pipeline:
    """Return the pipeline of a scanner for images of the reference."""
    return Pipeline(scanner_config(scanner, spacing=context.spacing, **options), context)


def _spine_like(count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images in nnU-Net's order with air, fat, muscle, marrow and discs, cord and fluid, and labels."""
    image = torch.zeros(count, 1, *CONTEXT.shape)
    labels = torch.zeros(count, 1, *CONTEXT.shape, dtype=torch.int16)
    image[..., 12:80, :] = 0.12
    image[..., 12:20, :] = 0.75
    for top in range(4, 76, 18):
        image[..., 46:66, top : top + 12], labels[..., 46:66, top : top + 12] = 0.35, 10
        image[..., 46:66, top + 12 : top + 18], labels[..., 46:66, top + 12 : top + 18] = 0.6, 14
    image[..., 28:44, :], labels[..., 28:44, :] = 1.0, 12
    image[..., 33:39, :], labels[..., 33:39, :] = 0.4, 11
    texture = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(1))
    return image * (1 + 0.1 * texture).clamp_min(0.2), labels


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_six_scanners_are_there_and_their_numbers_have_sources() -> None:
    assert profile_names() == SIX
    for name in SIX:
        profile = load_profile(name)
        assert profile.name == name
        for line in (PROFILES / f"{name}.yaml").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in QUANTITIES:
                assert "#" in value, f"{name}: {key} has no source"


def test_published_numbers_are_as_published() -> None:
    profile = load_profile("ge-1.5t")
    assert (profile.field_strength, profile.in_plane, profile.slice, profile.noise) == (1.5, 0.8, 4.4, 0.06)
    assert load_profile("philips-1.5t").contrast == 0.78
    assert load_profile("siemens-1.5t").bias == 0.12


def test_noise_grows_along_the_published_order() -> None:
    noise = [load_profile(name).noise for name in BY_GAP]
    assert noise == sorted(noise)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"te_ms": 90}, "te"),
        ({"contrst": 0.9}, "contrast"),
        ({"noise": -0.1}, "0.0001 to 1"),
        ({"field_strength": 30}, "0.2 to 7"),
        ({"noise": float("nan")}, "0.0001 to 1"),
        ({"combination": "sum"}, "squares"),
        ({"tr": "long"}, "float"),
        ({"version": 2}, "1"),
    ],
)
def test_files_are_read_strictly(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {**load_profile("ge-3t").to_dict(), **change}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message):
        load_profile(file)


def test_a_profile_of_the_user_and_a_missing_key(tmp_path: Path) -> None:
    content = load_profile("ge-3t").to_dict() | {"name": "mine", "slice": 4.0}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    assert load_profile(file).slice == 4.0
    assert parse_scanner(f"{file}:bias=0").shifted.slice == 4.0
    del content["noise"]
    with pytest.raises(UsageError, match="noise"):
        load_profile(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ge-1.5", "ge-1.5t"),
        ("ge-1.5t:nose=1", "noise"),
        ("ge-1.5t:noise", "component=severity"),
        ("ge-1.5t:noise=much", "component=severity"),
        ("ge-1.5t:noise=-1", "0 to 4"),
        ("ge-1.5t:noise=9", "0 to 4"),
        ("ge-1.5t:noise=nan", "0 to 4"),
        ("ge-3t..ge-1.5@0.5", "ge-1.5t"),
        ("ge-3t..ge-1.5t@2", "0 to 1"),
        ("ge-3t..ge-1.5t@half", "0 to 1"),
    ],
)
def test_wrong_scanners_are_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_scanner(text)


# --- severities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
def test_severity_0_is_the_reference_and_1_the_profile(name: str) -> None:
    reference, profile = load_profile(REFERENCE), load_profile(name)
    none, full = (Scanner(profile, Severities.all(value), reference).shifted for value in (0.0, 1.0))
    for quantity in QUANTITIES:
        assert getattr(none, quantity) == getattr(reference, quantity)
        assert getattr(full, quantity) == pytest.approx(getattr(profile, quantity))


def test_each_component_moves_its_own_numbers_alone() -> None:
    reference, profile = load_profile(REFERENCE), load_profile("philips-1.5t")
    for component in COMPONENTS:
        shifted = Scanner(profile, Severities.only(component), reference).shifted
        moved = {name for name in QUANTITIES if getattr(shifted, name) != getattr(reference, name)}
        own = {name for name, quantity in QUANTITIES.items() if quantity.component == component}
        # A weaker field is noisier.
        assert moved <= own | ({"noise"} if component == "field" else set())
        assert moved


def test_field_and_noise_share_the_noise_of_a_profile() -> None:
    field, noise = (parse_scanner(f"ge-1.5t:all=0:{name}=1").shifted.noise for name in ("field", "noise"))
    assert field == pytest.approx(0.04)
    assert noise == pytest.approx(0.03)
    assert parse_scanner("siemens-1.5t:all=0:noise=1").shifted.noise == pytest.approx(0.02)


def test_severity_grows_evenly_and_beyond_the_profile() -> None:
    values = [parse_scanner(f"ge-1.5t:resolution={s}").shifted.in_plane for s in (0, 0.5, 1, 2)]
    assert values == pytest.approx([0.5, 0.5 * 1.6**0.5, 0.8, 0.5 * 1.6**2])
    assert parse_scanner("ge-1.5t:bias=4").shifted.bias == pytest.approx(1.2)


def test_text_of_a_scanner_is_read_again() -> None:
    scanner = parse_scanner("ge-1.5t:all=0.5:noise=1:bias=0")
    assert parse_scanner(scanner.text) == scanner


def test_between_two_profiles() -> None:
    first, second = load_profile("ge-3t"), load_profile("ge-1.5t")
    middle = interpolate(first, second, 0.5)
    assert middle.field_strength == pytest.approx(4.5**0.5)
    assert middle.bias == pytest.approx(0.25)
    for part, end in ((0.0, first), (1.0, second)):
        assert all(getattr(interpolate(first, second, part), name) == getattr(end, name) for name in QUANTITIES)
    assert parse_scanner("ge-3t..ge-1.5t@0.5").profile == middle


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIX)
def test_severity_0_leaves_images_bit_by_bit(name: str) -> None:
    config = scanner_config(parse_scanner(f"{name}:all=0"), spacing=SPACING, jitter=0.3)
    assert config.transforms == ()
    image, labels = _spine_like()
    result, _ = Pipeline(config, CONTEXT)(image, labels, keys(1))
    assert torch.equal(result, image)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_changes_images_alone(component: str) -> None:
    image, labels = _spine_like()
    line = _taking(parse_scanner(f"philips-1.5t:all=0:{component}=1"), CONTEXT)
    result, moved = line(image, labels, keys(1))
    assert torch.equal(moved, labels)
    assert result.isfinite().all()
    assert not torch.equal(result, image)


def test_changes_grow_with_the_severity() -> None:
    image, labels = _spine_like(6)
    for component in COMPONENTS:
        distances = []
        for severity in (0.5, 1.0, 2.0):
            scanner = parse_scanner(f"philips-1.5t:all=0:{component}={severity}")
            result, _ = _taking(scanner, CONTEXT)(image, labels, keys(6))
            distances.append(float((result - image).square().mean()))
        assert distances == sorted(distances), component


def _lost(name: str) -> float:
    """Return the part of the variance of tissue that an image at a scanner does not tell, 1 - R^2."""
    image, labels = _spine_like(4)
    result, _ = _taking(parse_scanner(name), CONTEXT)(image, labels, keys(4))
    inside = image > 0.05
    return 1 - float(torch.corrcoef(torch.stack([image[inside], result[inside]]))[0, 1]) ** 2


def test_degradation_ranks_as_the_published_gaps() -> None:
    for change in ("", ":manufacturer=0"):
        lost = [_lost(f"{name}{change}") for name in BY_GAP]
        assert lost == sorted(lost), dict(zip(BY_GAP, lost, strict=True))


def test_noise_has_the_requested_level() -> None:
    image = torch.ones(1, 1, *CONTEXT.shape)
    image[..., :8, :] = 0.0
    result, _ = _taking(parse_scanner("siemens-1.5t:all=0:field=1"), CONTEXT, weighting=False)(image, None, keys(1))
    assert float(result[..., 20:, :].std()) == pytest.approx((0.04**2 - 0.02**2) ** 0.5, rel=0.05)


def test_shading_has_about_the_requested_peak_to_peak() -> None:
    facts = Context(shape=(16, 128, 128), spacing=(4.0, 2.0, 2.0))
    line = _taking(parse_scanner("ge-1.5t:all=0:bias=1"), facts)
    image = torch.ones(1, 1, *facts.shape)
    image[..., :4, :] = 0.0
    found = []
    for key in keys(24):
        inside = line(image, None, [key])[0][..., 4:, :]
        found.append(float((inside.max() - inside.min()) / inside.mean()))
    assert np.mean(found) == pytest.approx(0.30, rel=0.2)


def test_longer_echoes_dim_what_the_equations_say() -> None:
    image, labels = _spine_like()
    scanner = parse_scanner("philips-3t:all=0:manufacturer=1")
    listed = scanner_config(scanner).to_dict()["transforms"]
    line = Pipeline({"transforms": [entry for entry in listed if entry["name"] == "protocol_change"]}, CONTEXT)
    result, _ = line(image, labels, keys(1))
    ratio = {label: float(result[labels == label].mean() / image[labels == label].mean()) for label in (10, 11, 12)}
    # TE from 101 to 120 ms: cord (T2 75) loses 22 %, marrow (T2 31, and fat) more, fluid next to nothing.
    assert ratio[12] == pytest.approx(1.0, abs=0.01)
    assert ratio[11] == pytest.approx(np.exp(-19 / 75), rel=0.06)
    assert ratio[10] < 0.9
    assert float(result[..., :10, :].abs().max()) < 1e-3


def test_one_seed_one_result_and_replay() -> None:
    image, labels = _spine_like(3)
    mix = {"profiles": ["ge-3t", "philips-1.5t", "siemens-1.5t"], "weights": [2, 1, 1], "blend": 0.5, "jitter": 0.2}
    line = Pipeline({"scanners": mix}, CONTEXT)
    plan = line.plan(keys(3))
    result, _ = line.apply(image, labels, plan)
    again, _ = Pipeline({"scanners": mix}, CONTEXT)(image, labels, keys(3))
    assert torch.equal(result, again)
    assert torch.equal(line.apply(image, labels, Plan.from_record(plan.record))[0], result)
    alone, _ = line(image[1:2], labels[1:2], keys(3)[1:2])
    torch.testing.assert_close(alone, result[1:2], rtol=1e-5, atol=2e-5)
    assert not torch.equal(result[0], result[1])


@pytest.mark.parametrize("wrong", [{"jitter": 2.0}, {"spacing": (1.0, 0.0, 1.0)}])
def test_impossible_options_of_a_configuration(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        scanner_config(parse_scanner("ge-3t"), **wrong)


# --- the phantom ----------------------------------------------------------------------------------------------------


def _scan(scanner: str | None, name: str = "t2w_sagittal") -> Volume:
    protocol = PROTOCOLS[name].with_spacing((3.0, 3.0, 6.0))
    scanners = () if scanner is None else (parse_scanner(scanner),)
    request = ScanRequest((protocol,), seed=5, region="lumbar", supersample=1, scanners=scanners)
    return scan_subject(request, 0)[0].image


def test_a_phantom_at_severity_0_is_the_same_bit_by_bit() -> None:
    plain, scanned = _scan(None), _scan("philips-1.5t:all=0")
    assert np.array_equal(plain.array, scanned.array)
    assert np.array_equal(plain.affine, scanned.affine)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_changes_the_phantom(component: str) -> None:
    plain, scanned = _scan(None), _scan(f"philips-1.5t:all=0:{component}=1")
    assert plain.shape != scanned.shape or not np.array_equal(plain.array, scanned.array)
    assert np.array_equal(_scan(f"philips-1.5t:all=0:{component}=1").array, scanned.array)


def test_protocols_at_a_scanner() -> None:
    protocol = PROTOCOLS["t2w_sagittal"].with_spacing((0.5, 0.5, 3.0))
    there = at_scanner(protocol, parse_scanner("ge-1.5t"))
    acquired = np.array(there.spacing) * there.resolution / PROTOCOLS["t2w_sagittal"].resolution
    assert acquired[0] == pytest.approx(0.8)
    assert acquired[2] == pytest.approx(4.4)
    assert (there.tr, there.te) == pytest.approx((2500, 102))
    assert there.field_strength == 1.5
    assert there.snr == pytest.approx(protocol.snr / 3)
    assert there.coils == 2
    stir = at_scanner(PROTOCOLS["stir_sagittal"], parse_scanner("ge-3t:all=0:field=1"))
    assert stir.ti > PROTOCOLS["stir_sagittal"].ti
    assert at_scanner(PROTOCOLS["t1w_sagittal"], parse_scanner("ge-3t")).tr == 600
    assert at_scanner(protocol, parse_scanner("ge-1.5t:all=0")) == protocol


def test_air_is_brighter_with_squared_coils() -> None:
    adaptive, squares = _scan("philips-3t"), _scan("ge-3t")
    level = [float(np.quantile(v.array, 0.02) / np.quantile(v.array, 0.99)) for v in (adaptive, squares)]
    assert level[1] > 1.3 * level[0]


def test_spines_take_turns_and_the_dataset_says_so(tmp_path: Path) -> None:
    from nnunet_spine_ext.core.io import read_json

    options: dict[str, Any] = {"region": "lumbar", "spacing": (4, 4, 8), "supersample": 1, "seed": 1}
    phantom(tmp_path, n=3, scanner=("ge-3t", "philips-1.5t:noise=0"), **options)
    cases = read_json(tmp_path / "Dataset900_SpinePhantom" / "cases.json")["cases"]
    models = [cases[f"phantom000{k}"]["model"] for k in (1, 2, 3)]
    assert models == ["ge-3t", "philips-1.5t:noise=0", "ge-3t"]
    assert cases["phantom0002"]["manufacturer"] == "Philips"
    assert cases["phantom0002"]["field_strength"] == 1.5


def test_ct_has_no_scanner(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CT"):
        phantom(tmp_path, n=1, protocol="ct_sagittal", scanner="ge-3t")
    assert not any(tmp_path.iterdir())


def test_changed_profiles_make_new_scanners() -> None:
    reference = load_profile(REFERENCE)
    own = replace(reference, name="own", noise=0.05)
    listed = scanner_config(Scanner(own, Severities(), reference)).to_dict()["transforms"]
    assert [entry["name"] for entry in listed] == ["rician_noise"]
