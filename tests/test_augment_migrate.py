"""Configurations of SmaugLab and AugLab become ours: every entry, every key, and nothing in silence."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peer_layouts import CPU, FLAT_GPU, GPU, MIXED, VALUES

from nnunet_spine_ext.augment.config import Group
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.migrate import RULES, Imported, import_config
from nnunet_spine_ext.augment.migrate_block import SD_IN_SPAN, TECHNICAL, Block
from nnunet_spine_ext.augment.migrate_names import AUGLAB
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.core.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = json.loads((ROOT / "tests" / "fixtures" / "peer_configs.json").read_text(encoding="utf-8"))
IMAGES = json.loads((ROOT / "tests" / "fixtures" / "peer_images.json").read_text(encoding="utf-8"))
SHAPE = (8, 20, 18)
CONTEXT = Context(SHAPE, (3.0, 1.0, 1.0), channels=3, labels=(0, 1, 2, 3))


def entry(section: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the only entry that a configuration with one entry becomes, without defaults."""
    result = import_config({section: {name: given}})
    assert result.unmatched == ()
    (only,) = result.config.to_dict()["transforms"]
    return dict(only)


def images(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch with labels, as it comes z-scored from a loader."""
    noise = torch.randn(count, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(count, 1, *SHAPE, dtype=torch.int16)
    labels[..., 2:5, 3:12, 3:9], labels[..., 5:, 8:, 9:], labels[..., :2, 14:, :6] = 1, 2, 3
    return noise * 0.2 + labels, labels


def run(result: Imported, count: int = 2) -> torch.Tensor:
    """Run a converted configuration on a small batch."""
    keys = [SampleKey(seed=1, case=f"case{i}", epoch=0, draw=i) for i in range(count)]
    batch, labels = images(count)
    changed, _ = Pipeline(result.config, CONTEXT)(batch, labels, keys)
    return changed


@pytest.mark.parametrize(("section", "name"), [(s, n) for s, rules in RULES.items() for n in rules])
def test_every_key_of_every_entry_is_read(section: str, name: str) -> None:
    rule, given = RULES[section][name], {"GPU": GPU, "CPU": CPU}[section][name]
    assert set(given) | {"bank_path"} >= set(rule.defaults), "the test has to give every key"
    for values in (given, {}, dict.fromkeys(rule.defaults)):
        block = Block(name, values, rule.defaults)
        rule.make(block)
        assert block.nothing or block.unread() == set()
        assert block.unknown() == []
    assert (TECHNICAL.keys() & set(rule.defaults)) <= set(given)


@pytest.mark.parametrize(("section", "name"), [(s, n) for s, rules in RULES.items() for n in rules])
def test_every_entry_converts_and_runs(section: str, name: str) -> None:
    given = {key: value for key, value in {"GPU": GPU, "CPU": CPU}[section][name].items() if key != "bank_path"}
    given |= {key: 1.0 for key in ("p", "p_batch", "p_per_channel") if key in given}
    result = import_config({section: {name: given}})
    assert result.unmatched == ()
    assert len(result.converted) == 1
    assert result.converted[0].startswith(f"{section} {name} -> ")
    assert torch.isfinite(run(result)).all()


def test_a_whole_configuration_converts_loads_again_and_runs() -> None:
    result = import_config({"_comment": "all", "GPU": GPU, "CPU": CPU})
    assert result.unmatched == ()
    assert (result.layout, len(result.converted)) == ("SmaugLab", len(GPU) + len(CPU))
    assert type(result.config).load(result.config.to_dict()).hash == result.config.hash
    # 30 entries with p 0.5 and p_batch 0.5; 12 with 0.5; 7 of nnU-Net with half of that; rotation, scaling, elastic;
    # the mirror; the last z-score.
    assert result.expected == pytest.approx(30 * 0.25 + 12 * 0.5 + 7 * 0.25 + 0.5 + 1.0 + 0.5)
    assert torch.isfinite(run(result)).all()
    assert set(json.loads(json.dumps(result.to_dict()))) == set(result.to_dict())


def test_as_many_transforms_fire_as_the_file_says() -> None:
    given = {name: {**block, "p": 0.3} for name, block in GPU.items() if block is MIXED or block is VALUES}
    result = import_config({"GPU": given})
    assert result.expected == pytest.approx(0.15 * len(given))
    keys = [SampleKey(seed=3, case=str(i), epoch=0, draw=0) for i in range(600)]
    plan = Pipeline(result.config, Context(SHAPE, (3.0, 1.0, 1.0), channels=3)).plan(keys)
    # Two channels of each are drawn for themselves: two records per transform that fired.
    fired = [len(applied) / 2 for applied in plan.samples]
    sd = math.sqrt(len(given) * 0.15 * 0.85 / len(keys))
    assert np.mean(fired) == pytest.approx(result.expected, abs=4 * sd)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"in_seg": 0.0, "out_seg": 0.0, "mix_in_out": True}, "everywhere"),
        ({"in_seg": 1.0, "out_seg": 1.0}, "everywhere"),
        ({"in_seg": 0.5, "out_seg": 0.5}, {"in_labels": 0.25, "out_labels": 0.25}),
        ({"in_seg": 0.5}, {"in_labels": 0.5}),
        ({"out_seg": 0.2}, {"out_labels": 0.2}),
        ({"in_seg": 0.5, "out_seg": 0.5, "mix_in_out": True}, {"random_labels": 0.5}),
    ],
)
def test_where_is_what_two_coins_say(given: dict[str, Any], where: Any) -> None:
    assert entry("GPU", "RandomGammaGPU", given)["where"] == where


def test_blending_is_as_frequent_and_as_strong() -> None:
    found = entry("GPU", "RandomScharrGPU", {"mix_prob": 0.25, "p": 0.4, "absolute": True})
    assert found["p"] == 0.4
    assert [(m["name"], m["p"], m["mix"]) for m in found["one_of"]] == [("scharr", 0.75, 1.0), ("scharr", 0.25, [0, 1])]
    assert entry("GPU", "RandomScharrGPU", {"mix_prob": 1.0})["mix"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("section", "name", "given", "expected"),
    [
        ("GPU", "RandomGaussianNoiseGPU", {"std": 0.5}, {"sigma": [0.0, 0.5 * SD_IN_SPAN]}),
        ("GPU", "RandomGaussianBlurGPU", {"sigma": 2}, {"unit": "voxel", "in_plane": [0, 2], "through_plane": [0, 2]}),
        ("GPU", "RandomFlipTransformGPU", {"flip_axis": [0]}, {"axes": [0], "axis_p": 1.0}),
        ("GPU", "RandomFlipTransformGPU", {"flip_axis": 1}, {"axes": [1], "axis_p": 1.0}),
        ("GPU", "RandomFlipTransformGPU", {"flip_axis": [0, 1]}, {"axis_p": 0.5 + 0.25 / 2}),
        ("GPU", "RandomCropTransformGPU", {"crop": [0.5, 1.0]}, {"cut": [0.0, 0.5], "unit": "fraction"}),
        ("GPU", "RandomBiasFieldGPU", {"coefficients": 0.2}, {"coefficient": 0.2, "order": 3}),
        ("GPU", "RandomAcqTransformGPU", {"scale": [0.1, 1.0]}, {"axes": "one", "scale": [0.1, 1.0]}),
        ("GPU", "RandomGammaGPU", {"apply_to_channel": [1, 2]}, {"channels": [1, 2], "per_channel": True}),
        ("GPU", "RandomGammaGPU", {"p": 0.5, "p_batch": 0.5}, {"p": 0.25, "channels": [0]}),
        ("GPU", "RandomContrastGPU", {"retain_stats": True}, {"retain_stats": True, "preserve_range": False}),
        ("CPU", "LaplaceConvTransform", {"absolute": True}, {"absolute": False, "negative": True, "channels": [0]}),
        ("GPU", "ZscoreNormalizationGPU", {"p": 0.3}, {"name": "renormalise", "to": "values", "p": 0.3}),
        ("CPU", "MirrorTransform", {"allowed_axes": [0, 2]}, {"p": 1.0, "axes": [0, 2], "axis_p": 0.5}),
        ("CPU", "ContrastTransform", {"preserve_range": True}, {"factor": [0.75, 1.25], "per_channel": True}),
        ("CPU", "ContrastTransform", {"contrast_range": [1.1, 1.5]}, {"factor": [1.1, 1.5]}),
        ("CPU", "GaussianBlurTransform", {"p": 0.2, "p_per_channel": 0.5}, {"p": 0.1, "in_plane": [1.0, 5.0]}),
        ("CPU", "ShapeTransform", {"ignore_axes": [1, 2]}, {"name": "crop", "axes": [0], "cut": [0.0, 1.0]}),
        ("CPU", "SpatialTransform", {"p_scaling": 0.2, "scaling": [0.5, 1]}, {"factor": {"log": [1, 2]}, "p": 0.2}),
        ("CPU", "SimulateLowResolutionTransform", {"scale": [0.3, 1]}, {"anti_alias": False, "per_axis": True}),
        ("CPU", "SimulateLowResolutionTransform", {"ignore_axes": [0]}, {"axes": [1, 2], "anti_alias": False}),
    ],
)
def test_settings(section: str, name: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = entry(section, name, given)
    assert {key: found[key] for key in expected} == expected


def test_what_belongs_together_fires_together() -> None:
    found = entry("GPU", "RandomAffineGPU", {"p": 0.5, "degrees": 5, "scale": [0.7, 1.4]})
    assert (found["p"], found["count"]) == (0.5, 4.0)
    assert [member["name"] for member in found["some_of"]] == ["rotate", "scale", "shear", "translate"]
    assert found["some_of"][0]["degrees"] == [-5.0, 5.0]
    assert found["some_of"][3]["unit"] == "fraction"


def test_nnunet_draws_below_and_above_one_equally_often() -> None:
    found = entry("CPU", "GammaTransform", {"gamma": [0.7, 1.5], "p_retain_stats": 1, "p_invert_image": 0.5})
    shares = [(m["name"], m["p"], m["gamma"]) for m in found["one_of"]]
    halves = ([0.7, 1.0], [1.0, 1.5])
    assert shares == [(name, 0.25, half) for name in ("gamma", "inverse_gamma") for half in halves]


def test_one_artefact_or_all_of_them() -> None:
    switches = {"p": 0.6, "motion": True, "noise": True}
    all_of_them = entry("CPU", "ArtifactTransform", switches)
    assert [m["name"] for m in all_of_them["some_of"]] == ["motion", "gaussian_noise"]
    one = entry("CPU", "ArtifactTransform", {**switches, "random_pick": True})
    assert (one["p"], [m["p"] for m in one["one_of"]]) == (0.6, [1.0, 1.0])
    picked = import_config({"CPU": {"SpatialCustomTransform": CPU["SpatialCustomTransform"]}})
    assert [e.p for e in picked.config.transforms] == [0.125] * 4
    assert sum(isinstance(e, Group) for e in picked.config.transforms) == 1


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("Log1p", np.log1p),
        ("Sqrt", np.sqrt),
        ("Sin", np.sin),
        ("Exp", np.exp),
        ("Sigmoid", lambda u: 1 / (1 + np.exp(-u))),
    ],
)
def test_functions_are_theirs_up_to_the_range(name: str, function: Any) -> None:
    result = import_config({"GPU": {f"Random{name}GPU": {"retain_stats": True}}})
    u = torch.linspace(0, 1, 8 * 16 * 16).reshape(1, 1, 8, 16, 16)
    context = Context(u.shape[2:], (1.0, 1.0, 1.0))
    changed, _ = Pipeline(result.config, context)(u, None, [SampleKey(seed=0, case="a", epoch=0, draw=0)])
    expected = function(u.numpy()).ravel()
    inside = slice(40, -40)
    slope, offset = np.polyfit(expected[inside], changed.numpy().ravel()[inside], 1)
    error = np.abs(slope * expected + offset - changed.numpy().ravel())[inside]
    # Air and the brightest tissue are quantiles here, and the extremes there.
    assert error.max() < 0.02
    assert changed.mean() == pytest.approx(0.5, abs=1e-3)


# Edge filters are not the same filters: 26 neighbours there, 6 here; sums of directions there, their length here.
CLOSE = {"CPU laplace": 0.85, "laplace": 0.9, "scharr": 0.95, "equalise": 0.985, "CPU equalise": 0.985}


@pytest.mark.parametrize("name", sorted(IMAGES["values"]))
def test_the_result_is_that_of_smauglab(name: str) -> None:
    peer = _script("tests/oracles/peer_images.py")
    values, labels = peer.image()
    result = import_config(peer.settings(name, given=True))
    line = Pipeline(result.config, Context(peer.SHAPE, (1.0, 1.0, 1.0), labels=(0, 1, 2)))
    batch, labels = torch.from_numpy(values)[None, None], torch.from_numpy(labels)[None, None]
    changed, _ = line(batch, labels, [SampleKey(seed=0, case="a", epoch=0, draw=0)])
    before, after = (volume.numpy().ravel()[peer.places()] for volume in (batch, changed))
    theirs = np.array(IMAGES["values"][name])
    assert np.corrcoef(after, theirs)[0, 1] > CLOSE.get(name, 0.997)
    assert after.std() == pytest.approx(theirs.std(), rel=0.05)
    change, their_change = (np.sqrt(np.mean((v - before) ** 2)) for v in (after, theirs))
    # Brightness is about air here, and about the mean there.
    assert change == pytest.approx(their_change, rel=0.4 if name == "brightness" else 0.15, abs=0.01)


def test_modes_of_the_pipeline() -> None:
    body = {"RandomSinGPU": {"p": 0.4}, "RandomGammaGPU": {"p": 0.4}, "RandomLowResTransformGPU": {"p": 0.4}}
    choose = {"ta_probability": 0.5, "ge_probability": 0.25, "ta_random_order": True, "ge_random_order": False}
    pipeline = {"_comment": "x", "mode": "random_order", "order": "config", "same_on_batch": False}
    result = import_config({"GPU": body, "pipeline": {**pipeline, "random_choose": choose}})
    assert result.config.order == "random"
    assert [e.p for e in result.config.transforms] == [0.2, 0.1, 0.4]
    assert len([line for line in result.remarks if line.startswith(("mode", "order", "same_on", "ta_", "ge_"))]) == 7
    fixed = import_config({"GPU": body, "pipeline": {"mode": "random_order_ta", "random_choose": choose}})
    assert fixed.config.order == "config"
    assert [e.p for e in fixed.config.transforms] == [0.4, 0.2, 0.4], "gamma comes first there"
    assert import_config({"GPU": body, "pipeline": {"mode": None}}).config.order == "config"


def test_what_is_not_known_is_said_with_the_nearest_name() -> None:
    result = import_config(
        {
            "GPU": {"RandomGamaGPU": {"p": 1}, "RandomSinGPU": {"p": 1, "retain_stat": True}},
            "pipeline": {"mod": "sequential", "random_choose": {"ta_prob": 1}},
        }
    )
    assert len(result.unmatched) == 4
    for name in ("RandomGammaGPU", "retain_stats", "'mode'", "ta_probability"):
        assert any(f"did you mean {name!r}" in line or name in line for line in result.unmatched)


def test_what_never_fires_is_listed() -> None:
    result = import_config(
        {
            "GPU": {"RandomSinGPU": {"p": 0, "keepdim": True}, "_note": "x"},
            "CPU": {"SpatialTransform": {"random_crop": False}, "MirrorTransform": {"allowed_axes": None}},
            "ValidationAugmentationCheckpoints": {"levels": [0.5]},
        }
    )
    assert result.config.transforms == ()
    text = "\n".join(result.ignored)
    for part in ("RandomSinGPU: p is 0", "are 0", "no axis", "1 comments", "keepdim", "random_crop", "Validation"):
        assert part in text


def test_regions_have_the_classes_and_the_seams_that_they_have_there() -> None:
    parts = {
        "initial_partitioner": {"type": "em_gmm", "n_foreground_clusters": 2},
        "refinement_partitioners": [{"type": "voronoi", "skip_prob": 0.0}],
    }
    found = entry("GPU", "PaletteSynthesisGPU", parts)
    assert (found["name"], found["clustering"], found["border"]) == ("region_palette", "em", 0.0)


def test_low_resolution_of_no_axis_is_nothing() -> None:
    result = import_config({"CPU": {"SimulateLowResolutionTransform": {"p": 0.5, "ignore_axes": [0, 1, 2]}}})
    assert result.config.transforms == ()
    assert any("no axis is left" in line for line in result.ignored)


def test_the_flat_layout_of_auglab() -> None:
    result = import_config(FLAT_GPU)
    assert (result.layout, result.unmatched) == ("AugLab", ())
    assert result.expected == pytest.approx(0.25 + 0.1 + 0.5 + 0.5 + 0.4 + 0.4)
    text = "\n".join(result.converted)
    for part in ("ScharrTransform -> scharr", "UnsharpMaskTransform -> laplace", "-> log1p (p 0.1), sqrt (p 0.1)"):
        assert f"GPU {part}" in text or part in text
    assert "GPU GammaTransform: p is 0" in result.ignored, "without a probability nothing fires there"
    assert any("AcqTransform: AugLab does not read crop" in line for line in result.ignored)
    assert any(m["name"] == "shear" for e in result.config.to_dict()["transforms"] for m in e.get("some_of", []))


def test_the_processor_part_of_auglab() -> None:
    flat = {
        "retain_stats": True,
        "mirror_axes": [0, 1, 2],
        "ConvTransform": {"kernel_type": "Laplace", "retain_stats": False, "probability": 0.15},
        "GammaTransform_invert": {"gamma": [0.75, 1.25], "p_invert_image": 1, "probability": 0.1},
        "GaussianNoiseTransform": {"noise_variance": [0, 0.1], "probability": 0.1},
        "HistogramEqualTransform": {"probability": 0.1},
    }
    result = import_config(flat)
    found = {e["name"]: e for e in result.config.to_dict()["transforms"]}
    assert set(found) == {"laplace", "inverse_gamma", "gaussian_noise", "equalise", "flip"}
    assert found["laplace"]["retain_stats"], "that of the section counts there"
    assert found["equalise"]["retain_stats"]
    assert found["flip"]["axes"] == [0, 1, 2]
    hybrid = import_config({"CPU": {"Comment1": "ours", "ConvTransform": flat["ConvTransform"]}, "GPU": FLAT_GPU})
    assert (hybrid.layout, len(hybrid.converted), hybrid.unmatched) == ("AugLab", 7, ())


@pytest.mark.parametrize(("section", "name"), [(s, n) for s, names in AUGLAB.items() for n in names])
def test_every_entry_of_auglab_has_a_counterpart(section: str, name: str) -> None:
    chances = {"probability": 0.5, "p_rotation": 0.5} if name.endswith("SpatialTransform") else {"probability": 0.5}
    chances |= {"motion": True} if name == "ArtifactTransform" else {}
    chances |= {"flip": True} if name == "SpatialCustomTransform" else {}
    if name in ("nnUNetSpatialTransform", "SpatialTransform"):
        del chances["probability"]
    other = {"GPU": "InverseTransform", "CPU": "ShapeTransform"}[section]
    result = import_config({section: {name: chances, other: {"probability": 0.5}}})
    assert (result.layout, result.unmatched) == ("AugLab", ())
    assert any(line.startswith(f"{section} {name} -> ") for line in result.converted)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "E-AUG-IMPORT-READ"),
        ("{", "E-AUG-IMPORT-READ"),
        ("[1]", "E-AUG-IMPORT-LAYOUT"),
        ("{}", "E-AUG-IMPORT-LAYOUT"),
        ('{"TYPE": "LABEL", "CONTRASTS": "T2w", "TRAINING": [{"IMAGE": "a"}]}', "E-AUG-IMPORT-LAYOUT"),
        ('{"version": 1, "transforms": []}', "E-AUG-IMPORT-LAYOUT"),
        ('{"GPU": [1]}', "E-AUG-IMPORT-LAYOUT"),
        ('{"GPU": {}, "GPUS": {}}', "E-AUG-IMPORT-LAYOUT"),
        ('{"GPU": {"RandomSinGPU": 1}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomSinGPU": {"p": "often"}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomSinGPU": {"p": 1.5}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomSinGPU": {"p": NaN}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomSinGPU": {"retain_stats": "yes"}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomGammaGPU": {"gamma_range": [1.5, 0.7]}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomGammaGPU": {"gamma_range": [0.001, 0.7]}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomFlipTransformGPU": {"flip_axis": [0.5]}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {"RandomCropTransformGPU": {"crop": [0.5, 1.5]}}}', "E-AUG-IMPORT-VALUE"),
        (
            '{"GPU": {"PaletteSynthesisGPU": {"refinement_partitioners": [{"type": "voronoi", "s_choices": "a"}]}}}',
            "E-AUG-IMPORT-VALUE",
        ),
        ('{"GPU": {"PaletteSynthesisGPU": {"initial_partitioner": {"type": "x"}}}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {}, "pipeline": {"mode": "shuffled"}}', "E-AUG-IMPORT-VALUE"),
        ('{"GPU": {}, "pipeline": {"random_choose": {"ta_probability": 2}}}', "E-AUG-IMPORT-VALUE"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "params.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        import_config(path)
    assert caught.value.code == code
    assert "params.json" in caught.value.file


def test_the_page_has_the_table_of_the_rules() -> None:
    script = _script("docs/generate_migration.py")
    assert script.render() in script.PAGE.read_text(encoding="utf-8"), "make docs"


WRONG: tuple[Any, ...] = (None, "x", -1, 1e9, [], [3, 1], {"a": 1}, True, math.nan, [["a"]], [{"type": "voronoi"}])


@pytest.mark.parametrize("section", ["GPU", "CPU"])
def test_no_value_of_any_key_ends_in_another_error(section: str) -> None:
    for name, given in {"GPU": GPU, "CPU": CPU}[section].items():
        given = {key: value for key, value in given.items() if key != "bank_path"}
        for key in given:
            for value in WRONG:
                error = _error({section: {name: {**given, key: value}}})
                assert error is None or (error.code == "E-AUG-IMPORT-VALUE" and name in error.file)


def _error(source: dict[str, Any]) -> UsageError | None:
    try:
        import_config(source)
    except UsageError as error:
        return error
    return None


def _script(name: str = "tests/oracles/make_peer_configs.py") -> Any:
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_record_says_that_nothing_is_unmatched() -> None:
    assert set(FIXTURE["peers"]) == {"smauglab", "auglab"}
    counts = {peer: len(found["files"]) for peer, found in FIXTURE["peers"].items()}
    assert counts == {"smauglab": 8, "auglab": 5}
    for found in FIXTURE["peers"].values():
        for name, outcome in found["files"].items():
            if name == "data/data.json":
                assert outcome["refused"] == "E-AUG-IMPORT-LAYOUT"
            else:
                assert outcome["unmatched"] == 0
                assert outcome["converted"] > 10


@pytest.mark.parametrize("peer", ["smauglab", "auglab"])
def test_every_shipped_configuration_converts_and_runs(peer: str) -> None:
    script = _script()
    files = script.shipped(peer, ROOT / ".oracles")
    if not files:
        pytest.skip(f"no configurations of {peer} in .oracles: make peers")
    recorded = FIXTURE["peers"][peer]["files"]
    assert set(files) == set(recorded)
    for name, path in files.items():
        outcome = script.outcome(path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded[name]["sha256"]
        assert outcome == recorded[name], name
        if "refused" not in outcome:
            assert torch.isfinite(run(import_config(path), count=1)).all(), name


def test_the_rules_know_exactly_the_keys_of_the_shipped_template() -> None:
    path = _script().shipped("smauglab", ROOT / ".oracles").get("all_augmentations.json")
    if path is None:
        pytest.skip("no configurations of smauglab in .oracles: make peers")
    template = json.loads(path.read_text(encoding="utf-8"))
    for section, rules in RULES.items():
        assert {name: set(block) for name, block in template[section].items()} == {
            name: set(rule.defaults) for name, rule in rules.items()
        }
