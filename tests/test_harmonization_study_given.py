"""What an evaluation of harmonization asks of models and scans that it is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_spine_ext.core.errors import CaseError, NoInputError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.harmonize.cyclegan.settings import RadiomicSettings
from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel, write_harmonizer
from nnunet_spine_ext.harmonize.segmenter import SegmenterModel, write_segmenter
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slice_set import SliceFacts, SliceSet
from nnunet_spine_ext.networks.slice_unet import SliceNetworkShape
from nnunet_spine_ext.study.harmonization import testing
from nnunet_spine_ext.study.harmonization.assemble import Assembly, assemble
from nnunet_spine_ext.study.harmonization.config import read_config
from nnunet_spine_ext.study.harmonization.given import segmenter_facts
from nnunet_spine_ext.study.harmonization.scoring import score_arm
from nnunet_spine_ext.study.harmonization.testing import cut_slices, save_slices
from nnunet_spine_ext.study.steps import Ledger

MADE = SliceSettings(size=(64, 64), spacing=4.0)
NETWORK = SliceNetworkShape(features=(4, 8))


def _segmenter(folder: Path, slices: SliceSettings = MADE, *, seed: int = 0, **provenance: Any) -> Path:
    torch.manual_seed(seed)
    model = SegmenterModel(network=NETWORK, slices=slices, target=("ours",), provenance=provenance)
    write_segmenter(folder, model, NETWORK.build().state_dict())
    return folder


def _harmonizer(folder: Path, slices: SliceSettings = MADE, **provenance: Any) -> Path:
    model = HarmonizerModel("zscore", slices, (4.0, 4.0), ("ours",), ("theirs",), provenance=provenance)
    write_harmonizer(folder, model, {})
    return folder


def _assembled(tmp_path: Path, *assignments: str) -> Assembly:
    return assemble(read_config("smoke", list(assignments)), tmp_path / "study")


def _slices() -> SliceSet:
    images = np.tile(np.arange(64, dtype=np.float32), (2, 64, 1))
    facts = tuple(SliceFacts("D", name, name, name, 0, 0.0, True) for name in ("ours", "theirs"))
    return SliceSet(images, np.ones((2, 64, 64), np.uint8), facts, (2.0, 2.0))


OTHER = {
    "fit": replace(MADE, fit="resize"),
    "scaling": replace(MADE, scaling="minmax"),
    "spacing": replace(MADE, spacing=2.0),
}


@pytest.mark.parametrize("name", list(OTHER))
@pytest.mark.parametrize("kind", ["segmenters.unet", "harmonizer"])
def test_given_models_of_other_slices_stop_the_evaluation_before_its_first_step(
    tmp_path: Path, kind: str, name: str
) -> None:
    make = _harmonizer if kind == "harmonizer" else _segmenter
    made = make(tmp_path / "model", OTHER[name])
    with pytest.raises(UsageError) as error:
        _assembled(tmp_path, f"{kind}.folder={made}")
    assert error.value.code == "E-STUDY-SLICES"
    assert name in error.value.expected
    assert f"slices.{name}={getattr(OTHER[name], name)}" in error.value.fix
    _assembled(tmp_path, f"{kind}.folder={make(tmp_path / 'fitting')}")


def test_slices_have_the_pixels_of_a_given_segmenter_where_none_are_named(tmp_path: Path) -> None:
    made = _segmenter(tmp_path / "model", OTHER["spacing"])
    steps = _assembled(tmp_path, f"segmenters.unet.folder={made}", "slices.spacing=null").steps
    cut = next(step for step in steps if step.work is cut_slices)
    assert cut.arguments["slices"].spacing == 2.0
    fitted = next(step for step in steps if step.name.startswith("fit nyul"))
    assert "slices.spacing=2.0" in fitted.arguments["settings"]


@pytest.mark.parametrize("name", list(OTHER))
def test_no_arm_is_scored_on_slices_that_a_model_was_not_made_for(tmp_path: Path, name: str) -> None:
    save_slices(tmp_path / testing.TEST_SLICES, _slices(), {"ours": "target", "theirs": "source"}, MADE)
    arguments: dict[str, Any] = {
        "arm": "zscore", "scores": "scores.json", "main": "a", "radiomics": RadiomicSettings(roi=(64, 24)),
        "show": False, "device": "cpu",
    }  # fmt: skip
    fitting, other = _segmenter(tmp_path / "fitting"), _segmenter(tmp_path / "other", OTHER[name])
    for segmenter, harmonizer in ((other, None), (fitting, _harmonizer(tmp_path / "harmonizer", OTHER[name]))):
        with pytest.raises(UsageError) as error:
            score_arm(
                tmp_path,
                segmenters={"a": str(segmenter)},
                harmonizer=None if harmonizer is None else str(harmonizer),
                **arguments,
            )
        assert error.value.code == "E-STUDY-SLICES"


def test_slices_are_not_cut_otherwise_than_the_segmenter_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "read_slices", lambda *_args, **_kwargs: _slices())
    arguments: dict[str, Any] = {
        "datasets": ["scans"], "part": "Tr", "key": "vendor", "target": ["ours"], "unseen": [], "values": None,
        "trained": [], "grid": str(_segmenter(tmp_path / "model")),
    }  # fmt: skip
    with pytest.raises(UsageError) as error:
        cut_slices(tmp_path, slices=OTHER["scaling"], **arguments)
    assert error.value.code == "E-STUDY-SLICES"
    cut_slices(tmp_path, slices=replace(MADE, spacing=None), **arguments)
    assert testing.read_saved(tmp_path / testing.TEST_SLICES)[2] == MADE


# --- what an earlier run left ----------------------------------------------------------------


def _keys(tmp_path: Path, *assignments: str) -> dict[str, str]:
    ledger = Ledger(tmp_path)
    return {step.name: ledger.key(step) for step in _assembled(tmp_path, *assignments).steps}


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in after if before[name] != after[name]}


def test_a_segmenter_that_was_replaced_is_scored_and_trained_with_anew(tmp_path: Path) -> None:
    made = _segmenter(tmp_path / "model")
    before = _keys(tmp_path, f"segmenters.unet.folder={made}")
    assert not _changed(before, _keys(tmp_path, f"segmenters.unet.folder={made}"))
    # Other weights in the same folder, under the same description.
    _segmenter(tmp_path / "model", seed=1)
    changed = _changed(before, _keys(tmp_path, f"segmenters.unet.folder={made}"))
    assert {"score none, seed 0", "score nyul, seed 0", "train full, seed 0", "cut slices to test on"} <= changed
    assert not any(name.startswith(("scan", "fit", "train segmenter")) for name in changed)


def test_a_harmonizer_that_was_replaced_is_scored_anew(tmp_path: Path) -> None:
    made = _harmonizer(tmp_path / "model")
    before = _keys(tmp_path, f"harmonizer.folder={made}")
    _harmonizer(tmp_path / "model", made_by="another training")
    changed = _changed(before, _keys(tmp_path, f"harmonizer.folder={made}"))
    assert "score full, seed 0" in changed
    # Whom it was trained on is asked again; nothing is trained again.
    assert all(name.startswith(("cut", "score")) for name in changed)


def test_a_network_that_was_replaced_is_another_segmenter(tmp_path: Path) -> None:
    for name in ("plans.json", "dataset.json"):
        (tmp_path / name).write_text("{}")
    weights = tmp_path / "fold_0" / "checkpoint_final.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    before = segmenter_facts(tmp_path)
    weights.write_bytes(b"two")
    assert segmenter_facts(tmp_path) != before


def _given(tmp_path: Path, *more: str) -> list[str]:
    """Scans to train and to test on, of three vendors, without any voxel."""
    if not (tmp_path / "Dataset701_Train").is_dir():
        _dataset(tmp_path / "Dataset701_Train", {"ours": 3, "theirs": 3})
        _dataset(tmp_path / "Dataset702_Test", {"ours": 2, "theirs": 2, "new": 2}, first=10)
    data = (
        f"given={{datasets: [{tmp_path / 'Dataset701_Train'}], test: [{tmp_path / 'Dataset702_Test'}], test_part: Tr, "
        "target: [Ours], unseen: [new]}"
    )
    return ["phantoms=null", data, *more]


def _dataset(folder: Path, vendors: dict[str, int], first: int = 0) -> None:
    rows = {}
    for vendor, count in vendors.items():
        for number in range(first, first + count):
            rows[f"{vendor}{number}"] = {"subject": f"{vendor}-{number}", "manufacturer": vendor}
            for kind, end in (("images", "_0000"), ("labels", "")):
                (folder / f"{kind}Tr").mkdir(parents=True, exist_ok=True)
                (folder / f"{kind}Tr" / f"{vendor}{number}{end}.nii.gz").write_bytes(b"scan")
    write_json(folder / "cases.json", {"cases": rows})
    write_json(folder / "dataset.json", {"labels": {"background": 0, "disc": 1}, "file_ending": ".nii.gz"})


@pytest.mark.parametrize("part", ["Dataset701_Train", "Dataset702_Test"])
@pytest.mark.parametrize("edit", ["scan", "mask", "table"])
def test_data_that_was_edited_is_used_anew(tmp_path: Path, part: str, edit: str) -> None:
    given = _given(tmp_path)
    before = _keys(tmp_path, *given)
    assert not _changed(before, _keys(tmp_path, *given))
    folder = tmp_path / part
    if edit == "table":
        content = read_json(folder / "cases.json")
        content["cases"]["ours10" if part.endswith("Test") else "ours0"]["subject"] = "somebody"
        write_json(folder / "cases.json", content)
    else:
        kind = "images" if edit == "scan" else "labels"
        next(iter((folder / f"{kind}Tr").iterdir())).write_bytes(b"another scan")
    changed = _changed(before, _keys(tmp_path, *given))
    assert ("train full, seed 0" in changed) == part.endswith("Train")
    assert ("fit nyul, seed 0" in changed) == part.endswith("Train")
    assert {"cut slices to test on", "score none, seed 0", "score full, seed 0"} <= changed


# --- who is there, and whom models know ------------------------------------------------------


def test_a_source_that_is_not_tested_on_is_told_and_does_not_end_the_evaluation(tmp_path: Path) -> None:
    given = _given(tmp_path)
    _dataset(tmp_path / "Dataset702_Test", {"ours": 2, "new": 2}, first=10)
    content = read_json(tmp_path / "Dataset702_Test" / "cases.json")
    made = _assembled(tmp_path, *given)
    cut = next(step for step in made.steps if step.work is cut_slices)
    assert sorted(name.lower() for name in cut.arguments["values"]) == ["new", "ours"]
    assert len(content["cases"]) == 4
    assert [warning.split(":")[0] for warning in made.warnings] == ["theirs"]
    assert "theirs" in next(step for step in made.steps if step.name.startswith("train full")).arguments["source"]


@pytest.mark.parametrize(
    ("assignment", "found", "fix"),
    [
        ("given.unseen=[mew]", "mew", "new"),
        ("given.sources=[thiers]", "thiers", "theirs"),
        ("given.sources=[new]", "new", "given.unseen"),
        ("given.target=[oors]", "oors", "ours"),
    ],
)
def test_names_that_no_scan_has_stop_the_evaluation_before_its_first_step(
    tmp_path: Path, assignment: str, found: str, fix: str
) -> None:
    with pytest.raises(UsageError) as error:
        _assembled(tmp_path, *_given(tmp_path), "given.unseen=[]", assignment)
    assert found in error.value.found
    assert fix in error.value.fix


@pytest.mark.parametrize("vendors", [{"theirs": 2}, {"ours": 2}, {"ours": 2, "somebody": 2}])
def test_test_scans_without_the_target_or_without_others_stop_it_before_its_first_step(
    tmp_path: Path, vendors: dict[str, int]
) -> None:
    given = _given(tmp_path)
    _dataset(tmp_path / "Dataset702_Test", vendors, first=10)
    with pytest.raises(NoInputError) as error:
        _assembled(tmp_path, *given, "given.unseen=[]")
    assert error.value.code == "E-STUDY-DATA"


def test_vendors_that_differ_in_capitals_are_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        _assembled(tmp_path, *_given(tmp_path), "given.unseen=[OURS]")
    made = _assembled(tmp_path, *_given(tmp_path), "given.unseen=[' NEW']")
    assert made.scans.sources == ("theirs",)
    assert not made.warnings


def _tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr(testing, "read_slices", lambda *_args, **_kwargs: _slices())
    cut_slices(
        tmp_path, datasets=["Dataset702_Test"], part="Tr", key="manufacturer", target=["ours"], unseen=[], values=None,
        slices=MADE, grid=str(_segmenter(tmp_path / "grid", split={"train": {"subjects": []}, "validation": {
            "subjects": []}})), trained=[], models=[str(model)],
    )  # fmt: skip


@pytest.mark.parametrize("use", ["train", "validation", "test"])
def test_nobody_is_tested_on_whom_a_given_segmenter_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    _given(tmp_path)
    split = {name: {"subjects": ["ours" if name == use else "else"]} for name in ("train", "validation", "test")}
    model = _segmenter(tmp_path / "model", split=split)
    if use == "test":
        # Nothing was chosen with them.
        _tested(tmp_path, monkeypatch, model)
        return
    with pytest.raises(CaseError) as error:
        _tested(tmp_path, monkeypatch, model)
    assert error.value.code == "E-STUDY-SUBJECTS"
    assert "ours" in error.value.found
    assert str(model) in str(error.value.file)


def test_nobody_is_tested_on_whom_a_given_harmonizer_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _given(tmp_path)
    model = _harmonizer(tmp_path / "model", datasets=["Dataset701_Train"])
    _tested(tmp_path, monkeypatch, model)
    path = tmp_path / "Dataset701_Train" / "cases.json"
    content = read_json(path)
    content["cases"]["theirs1"]["subject"] = "theirs"
    # It was never trained on scans of this vendor.
    content["cases"]["new0"] = {"subject": "ours", "manufacturer": "new"}
    write_json(path, content)
    with pytest.raises(CaseError) as error:
        _tested(tmp_path, monkeypatch, model)
    assert error.value.found.startswith("theirs among")


def test_models_of_which_nobody_can_tell_whom_they_know_are_named(tmp_path: Path) -> None:
    given = _given(tmp_path)
    split = {name: {"subjects": ["else"]} for name in ("train", "validation")}
    told = _segmenter(tmp_path / "told", split=split)
    assert not _assembled(tmp_path, *given, f"segmenters.unet.folder={told}").warnings
    untold = _segmenter(tmp_path / "untold")
    gone = _harmonizer(tmp_path / "gone", datasets=["Dataset700_Gone"])
    warnings = _assembled(
        tmp_path, *given, f"segmenters.unet.folder={untold}", f"harmonizer.folder={gone}"
    ).warnings  # fmt: skip
    assert len(warnings) == 2
    assert "segmenters.unet" in warnings[0]
    assert "Dataset700_Gone" in warnings[1]
