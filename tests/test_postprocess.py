"""`nnUNetv2_spine_postprocess`: what it writes, what it refuses, what it does when something is wrong with one mask."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spine_builder import Spine, build

from nnunet_spine_ext.cli import postprocess as command
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, read_volume, sha256, write_json, write_volume
from nnunet_spine_ext.core.labels import apply_table, mapping
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference import phases as phases_module
from nnunet_spine_ext.inference.journal import Journal
from nnunet_spine_ext.inference.postprocess import postprocess
from nnunet_spine_ext.instances import interface
from nnunet_spine_ext.measure.centroids import read_poi

SMALL = Spine(levels=("L3", "L4", "L5"), spacing=(4.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def spine() -> tuple[Volume, Volume]:
    """Return a small mask of classes and its true instances."""
    return build(SMALL)


@pytest.fixture
def masks(tmp_path: Path, spine: tuple[Volume, Volume]) -> Path:
    """Return a folder with one good mask, and a dataset.json that says its scheme."""
    folder = tmp_path / "masks"
    write_volume(spine[0], folder / "good.nii.gz")
    write_json(folder / "dataset.json", {"labels": {"background": 0, "body": 10}, "spine_ext": {"scheme": "nnunet14"}})
    return folder


def files(folder: Path) -> list[str]:
    """Return every file of a folder, hidden ones as well."""
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


# ---- what is written ---------------------------------------------------------------------------------------------


def test_one_mask_gives_everything_asked_for(masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]) -> None:
    out = tmp_path / "out"
    result = postprocess(masks, out, snapshots=True, report=True)
    assert (result.exit_code, result.done, result.warnings) == (0, ["good"], {})
    instances = read_volume(out / "instances" / "good.nii.gz")
    assert instances.same_grid(spine[0])
    assert (instances.array == spine[1].array)[spine[1].array > 0].mean() > 0.99
    semantic = read_volume(out / "good.nii.gz")
    assert set(np.unique(semantic.array)) == set(np.unique(spine[0].array))
    points, header = read_poi(out / "centroids" / "good.json")
    assert (set(points), header["numbered"]) == (set(np.unique(instances.array)) - {0}, False)
    qc = read_json(out / "qc" / "good.json")
    assert (qc["numbered"], qc["vertebrae"]) == (False, 3)
    assert (out / "snapshots" / "good.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "report.html").is_file()
    # Names of classes are those of the masks, places from the top no levels.
    assert read_json(out / "dataset.json")["labels"] == {"background": 0, "body": 10}
    assert '"v1"' in (out / "instances" / "labels_itksnap.txt").read_text()
    run = read_json(out / "run.json")
    assert (run["scheme"], run["options"]["snapshots"], run["masks"]) == ("nnunet14", True, [str(masks)])
    entry = Journal(out).read()["good"]
    assert entry["outputs"]["snapshots/good.png"] == sha256(out / "snapshots" / "good.png")


def test_the_scheme_decides_what_ids_mean_and_the_mask_keeps_its_own(
    masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]
) -> None:
    theirs = spine[0].with_array(apply_table(spine[0].array, mapping("nnunet14", "spineps").table))
    write_volume(theirs, tmp_path / "spineps" / "good.nii.gz")
    postprocess(masks, tmp_path / "a")
    postprocess(tmp_path / "spineps", tmp_path / "b", scheme="spineps", bids=True)
    for name in ("instances/good.nii.gz", "centroids/good.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    kept = read_volume(tmp_path / "b" / "good.nii.gz").array
    # SPINEPS has ids for superior and inferior endplates; the rest keeps its own.
    assert {52, 53} <= set(np.unique(kept))
    assert np.array_equal(np.where((kept == 52) | (kept == 53), 62, kept), theirs.array)
    bids = tmp_path / "b" / "derivatives_seg" / "sub-good" / "anat"
    assert np.array_equal(read_volume(bids / "sub-good_seg-spine_msk.nii.gz").array, kept)
    assert read_json(tmp_path / "b" / "dataset.json")["labels"]["corpus"] == 49


def test_bids_names_are_those_of_spineps_with_its_ids(masks: Path, tmp_path: Path) -> None:
    (masks / "good.nii.gz").rename(masks / "sub-07_ses-2_acq-sag_T2w.nii.gz")
    out = tmp_path / "out"
    assert postprocess(masks, out, bids=True, snapshots=True).exit_code == 0
    folder = out / "derivatives_seg" / "sub-07" / "ses-2" / "anat"
    stem = "sub-07_ses-2_acq-sag_mod-T2w_seg-"
    names = [f"{stem}spine_{e}" for e in ("ctd.json", "msk.nii.gz", "snp.png")] + [f"{stem}vert_msk.nii.gz"]
    assert sorted(f.name for f in folder.iterdir()) == names
    # Classes have SPINEPS' ids there: 49 corpus, 100 disc.
    assert {49, 100} <= set(np.unique(read_volume(folder / f"{stem}spine_msk.nii.gz").array))
    assert read_json(out / "derivatives_seg" / "dataset_description.json")["DatasetType"] == "derivative"
    # Resume looks at these files, too.
    (folder / f"{stem}vert_msk.nii.gz").unlink()
    assert postprocess(masks, out, bids=True, snapshots=True, resume=True).done == ["sub-07_ses-2_acq-sag_T2w"]


def test_two_masks_of_one_bids_name_are_refused(masks: Path, tmp_path: Path) -> None:
    (masks / "good_.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())
    with pytest.raises(UsageError, match="cases good and good_"):
        postprocess(masks, tmp_path / "out", bids=True)
    assert postprocess(masks, tmp_path / "out").done == ["good", "good_"]


def test_any_order_of_axes_gives_the_same_instances(masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]) -> None:
    write_volume(spine[0].to("PIR"), masks / "turned.nii.gz")
    postprocess(masks, tmp_path / "out", snapshots=True)
    straight, turned = (read_volume(tmp_path / "out" / "instances" / f"{n}.nii.gz") for n in ("good", "turned"))
    assert turned.orientation == "PIR"
    assert np.array_equal(turned.to_grid_of(straight).array, straight.array)
    pictures = [tmp_path / "out" / "snapshots" / f"{n}.png" for n in ("good", "turned")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_torch_stays_out_without_a_network(masks: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from nnunet_spine_ext.inference.postprocess import postprocess;"
        f"postprocess({str(masks)!r}, {str(tmp_path / 'out')!r}, snapshots=True, bids=True, report=True);"
        "sys.exit(any(m.split('.')[0] in ('torch', 'nnunetv2') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


# ---- one bad mask among good ones --------------------------------------------------------------------------------


def wrong(kind: str, mask: Volume, path: Path) -> None:
    """Write the mask of a case with one thing wrong."""
    array = mask.array.copy()
    if kind == "unknown":
        array[2, 3, 4:6] = 77
    elif kind == "no-corpus":
        array[array == 10] = 0
    elif kind == "empty":
        array[:] = 0
    elif kind == "half":
        array = array + np.float32(0.5)
    affine = mask.affine @ np.diag([100.0, 100.0, 100.0, 1.0]) if kind == "spacing" else mask.affine
    write_volume(Volume(array[:1] if kind == "2d" else array, affine), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("unknown", "E-LABEL-UNKNOWN"),
        ("2d", "E-IN-2D"),
        ("spacing", "E-GEOM-SPACING"),
        ("truncated", "E-IN-TRUNCATED"),
        ("half", "E-LABEL-VALUE"),
    ],
)
def test_one_bad_mask_is_named_and_the_others_are_done(
    masks: Path, tmp_path: Path, spine: tuple[Volume, Volume], kind: str, code: str
) -> None:
    wrong(kind, spine[0], masks / "bad.nii.gz")
    out = tmp_path / "out"
    (out / "instances").mkdir(parents=True)
    (out / "instances" / "bad.nii.gz").write_bytes(b"of an earlier run")
    result = postprocess(masks, out, snapshots=True)
    assert (result.exit_code, result.done, list(result.failed)) == (3, ["good"], ["bad"])
    problem = result.failed["bad"]
    assert (problem.code, Path(problem.file).name) == (code, "bad.nii.gz")
    assert all((problem.found, problem.expected, problem.fix))
    if kind == "unknown":
        assert "77 (2 voxels)" in problem.found
    assert not [name for name in files(out) if "bad" in name]
    assert Journal(out).read()["bad"]["error"]["code"] == code
    # A rehearsal finds what can be found without the work.
    rehearsed = postprocess(masks, tmp_path / "dry", dry_run=True)
    assert not (tmp_path / "dry").exists()
    assert set(rehearsed.failed) == {"bad"}


@pytest.mark.parametrize("kind", ["empty", "no-corpus"])
def test_masks_without_bodies_are_done_with_a_warning(
    masks: Path, tmp_path: Path, spine: tuple[Volume, Volume], kind: str
) -> None:
    wrong(kind, spine[0], masks / "bare.nii.gz")
    out = tmp_path / "out"
    result = postprocess(masks, out, snapshots=True, bids=True)
    assert (result.exit_code, result.done) == (0, ["bare", "good"])
    *_, last = result.warnings["bare"]
    assert (last.code, Path(last.file).name) == ("W-INST-NONE", "bare.nii.gz")
    assert read_json(out / "qc" / "bare.json")["vertebrae"] == 0
    assert not set(np.unique(read_volume(out / "instances" / "bare.nii.gz").array)) - {0, 26}
    assert (out / "snapshots" / "bare.png").is_file()


def test_a_single_vertebra(tmp_path: Path) -> None:
    mask, _ = build(Spine(levels=("L3",), spacing=(4.0, 2.0, 2.0), sacrum=False))
    write_volume(mask, tmp_path / "one.nii.gz")
    result = postprocess(tmp_path / "one.nii.gz", tmp_path / "out", scheme="nnunet14", snapshots=True)
    assert (result.exit_code, read_json(tmp_path / "out" / "qc" / "one.json")["vertebrae"]) == (0, 1)


def test_nothing_usable(masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]) -> None:
    wrong("truncated", spine[0], masks / "good.nii.gz")
    assert postprocess(masks, tmp_path / "out").exit_code == 4
    (tmp_path / "void").mkdir()
    with pytest.raises(NoInputError):
        postprocess(tmp_path / "void", tmp_path / "out", scheme="nnunet14")
    with pytest.raises(NoInputError):
        postprocess(tmp_path / "absent", tmp_path / "out", scheme="nnunet14")


def test_a_bug_in_one_case_is_its_own(masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (masks / "other.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())
    original, calls = interface.separate, []

    def separate(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("a bug")
        return original(*args, **kwargs)

    monkeypatch.setattr(interface, "separate", separate)
    result = postprocess(masks, tmp_path / "out")
    assert (result.exit_code, result.done) == (3, ["other"])
    assert result.failed["good"].code == "E-INTERNAL"
    assert "a bug" in result.failed["good"].found


# ---- companions --------------------------------------------------------------------------------------------------


def test_an_image_on_another_grid_is_an_error_with_both_grids(
    masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]
) -> None:
    image = spine[0].with_array(spine[0].array.astype(np.float32))
    write_volume(image.crop((slice(0, None), slice(0, None), slice(4, None))), tmp_path / "images" / "good_0000.nii.gz")
    result = postprocess(masks, tmp_path / "out", images=tmp_path / "images", snapshots=True)
    problem = result.failed["good"]
    assert (problem.code, result.exit_code) == ("E-GEOM-GRID", 4)
    for volume, text in ((image, problem.expected), (spine[0], problem.expected)):
        assert "x".join(map(str, volume.shape)) in text
    assert f"x{image.shape[2] - 4} voxels of 4x2x2 mm, RAS" in problem.found


def test_the_picture_shows_the_image_and_a_missing_one_is_said(
    masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]
) -> None:
    (masks / "other.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())
    affine = spine[0].affine.copy()
    affine[0, 3] += 2e-4  # As real headers differ from those of their masks.
    image = np.random.default_rng(0).integers(0, 500, spine[0].shape, dtype=np.int16)
    write_volume(Volume(image, affine), tmp_path / "images" / "good_0000.nii.gz")
    result = postprocess(masks, tmp_path / "out", images=tmp_path / "images", snapshots=True)
    assert result.done == ["good", "other"]
    assert [problem.code for problem in result.warnings["other"]] == ["W-POST-IMAGE"]
    pictures = [(tmp_path / "out" / "snapshots" / f"{name}.png").read_bytes() for name in ("good", "other")]
    assert pictures[0] != pictures[1]
    rows = [row["role"] for row in Journal(tmp_path / "out").read()["good"]["input"]]
    assert rows == ["image", "mask"]


def test_a_companion_that_is_asked_for_and_missing_fails_its_case(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "levels").mkdir()
    result = postprocess(masks, tmp_path / "out", levels=tmp_path / "levels", dry_run=True)
    assert result.failed["good"].code == "E-POST-COMPANION"
    with pytest.raises(UsageError, match="nothing there"):
        postprocess(masks, tmp_path / "out", images=tmp_path / "absent")
    (masks / "other.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())
    with pytest.raises(UsageError, match="one file for 2 masks"):
        postprocess(masks, tmp_path / "out", images=masks / "good.nii.gz")


def test_masks_in_sub_folders_are_named_where_they_are_not_done(masks: Path, tmp_path: Path) -> None:
    for subject in ("sub-1", "sub-2"):
        (masks / subject / "anat").mkdir(parents=True)
        (masks / subject / "anat" / f"{subject}.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())
    # What our own runs keep below their folder are no masks of other cases; hidden files are nobody's.
    for other in ("instances/good.nii.gz", ".trash/old.nii.gz"):
        (masks / other).parent.mkdir()
        (masks / other).write_bytes(b"")
    result = postprocess(masks, tmp_path / "out", dry_run=True)
    assert [note.code for note in result.notes] == ["W-POST-SUBFOLDER"]
    assert "2 in sub-folders" in result.notes[0].found
    pattern = str(masks / "*" / "*" / "*.nii.gz")
    assert pattern in result.notes[0].fix
    assert result.exit_code == 0
    (masks / "good.nii.gz").unlink()
    with pytest.raises(NoInputError, match="no image in this folder, but 2 in sub-folders") as caught:
        postprocess(masks, tmp_path / "out", scheme="nnunet14")
    assert pattern in caught.value.fix
    # What is proposed works.
    files_given = sorted(masks.glob("*/*/*.nii.gz"))
    assert list(postprocess(files_given, tmp_path / "out", scheme="nnunet14", dry_run=True).planned) == [
        "sub-1",
        "sub-2",
    ]


def test_results_of_a_post_processing_below_the_masks_are_no_masks(masks: Path) -> None:
    postprocess(masks, masks / "out")
    assert not postprocess(masks, masks / "out").notes
    assert not postprocess(masks, masks / "again", dry_run=True).notes
    # Masks of a prediction are: they can be post-processed. What else it keeps is not.
    for name in ("good.nii.gz", "instances/good.nii.gz"):
        file = masks / "predicted" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes((masks / "good.nii.gz").read_bytes())
    write_json(masks / "predicted" / "run.json", {"input": "scans"})
    note = postprocess(masks, masks / "again", dry_run=True).notes[0]
    assert (note.code, "1 in sub-folders" in note.found) == ("W-POST-SUBFOLDER", True)
    assert note.fix.startswith(f"give them as files: -i {masks / 'predicted' / '*.nii.gz'}")


def test_images_of_which_none_belongs_to_a_mask_are_refused(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image; none belongs"):
        postprocess(masks, tmp_path / "out", images=tmp_path / "empty", snapshots=True)
    for name, held in (("others/b_0000.nii.gz", "1 images, such as b_0000"), ("deep/a/good.nii.gz", "no image, 1 in")):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_bytes((masks / "good.nii.gz").read_bytes())
        with pytest.raises(UsageError, match=held) as caught:
            postprocess(masks, tmp_path / "out", images=tmp_path / name.partition("/")[0], snapshots=True)
        assert caught.value.code == "E-POST-FILES"
        assert "good_0000.nii.gz" in caught.value.expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["localizer", "levels"])
def test_places_from_the_top_are_no_levels(masks: Path, tmp_path: Path, option: str) -> None:
    postprocess(masks, tmp_path / "first")
    given: dict[str, Any] = {option: tmp_path / "first" / "instances"}
    result = postprocess(masks, tmp_path / "out", **given, dry_run=True)
    assert result.failed["good"].code == "E-POST-UNNUMBERED"
    # A single file need not have the name of the mask.
    (tmp_path / "single").mkdir()
    (masks / "good.nii.gz").rename(tmp_path / "single" / "follow_up.nii.gz")
    given = {option: tmp_path / "first" / "instances" / "good.nii.gz"}
    result = postprocess(
        tmp_path / "single" / "follow_up.nii.gz", tmp_path / "out", scheme="nnunet14", **given, dry_run=True
    )
    assert result.failed["follow_up"].code == "E-POST-UNNUMBERED"


def test_masks_of_levels_in_another_scheme_are_not_asked_for_numbers(masks: Path, tmp_path: Path) -> None:
    postprocess(masks, tmp_path / "first")
    result = postprocess(
        masks, tmp_path / "out", levels=tmp_path / "first" / "instances", levels_scheme="verse", dry_run=True
    )
    # Discs have ids that the scheme does not know; whether they are numbered is not asked.
    assert result.failed["good"].code == "E-LABEL-UNKNOWN"


@pytest.mark.parametrize("option", ["localizer", "levels"])
def test_masks_of_classes_are_no_levels(masks: Path, tmp_path: Path, option: str) -> None:
    given: dict[str, Any] = {option: masks}
    with pytest.raises(UsageError, match="scheme nnunet14") as caught:
        postprocess(masks, tmp_path / "out", **given)
    assert caught.value.code == "E-POST-LEVELS"
    # The results of a run have their instances in a folder of their own.
    postprocess(masks, tmp_path / "first")
    with pytest.raises(UsageError, match=r"give .*instances"):
        postprocess(masks, tmp_path / "out", **{option: tmp_path / "first"})
    assert not (tmp_path / "out").exists()


def test_a_scheme_of_levels_needs_masks_of_levels(masks: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--levels-scheme") as caught:
        postprocess(masks, tmp_path / "out", levels_scheme="verse")
    assert caught.value.code == "E-CONFIG-IDLE"


def test_a_dry_run_names_unknown_ids_of_masks_and_of_masks_of_levels(
    masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]
) -> None:
    array = spine[0].array.copy()
    array[0, 0, 0] = 99
    write_volume(spine[0].with_array(array), masks / "strange.nii.gz")
    result = postprocess(masks, tmp_path / "out", dry_run=True)
    assert (list(result.planned), result.failed["strange"].code) == (["good"], "E-LABEL-UNKNOWN")
    assert result.failed["strange"].file.endswith("strange.nii.gz")
    write_volume(spine[0].with_array(array), tmp_path / "levels.nii.gz")
    result = postprocess(
        masks / "good.nii.gz", tmp_path / "out", levels=tmp_path / "levels.nii.gz", levels_scheme="verse", dry_run=True
    )
    assert result.failed["good"].code == "E-LABEL-UNKNOWN"
    assert not (tmp_path / "out").exists()


def test_the_report_of_an_earlier_run_does_not_stay(masks: Path, tmp_path: Path) -> None:
    postprocess(masks, tmp_path / "out", report=True)
    assert (tmp_path / "out" / "report.html").is_file()
    postprocess(masks, tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


# ---- what is refused before any work -----------------------------------------------------------------------------


def test_the_scheme_must_be_known(masks: Path, tmp_path: Path) -> None:
    (masks / "dataset.json").unlink()
    with pytest.raises(UsageError, match=r"known to nnunet14\).*give --scheme nnunet14") as caught:
        postprocess(masks, tmp_path / "out")
    assert caught.value.code == "E-POST-SCHEME"
    with pytest.raises(UsageError, match="nnunet14"):
        postprocess(masks, tmp_path / "out", scheme="nunet14")
    with pytest.raises(UsageError, match="bodies"):
        postprocess(masks, tmp_path / "out", scheme="spider")
    write_json(masks / "dataset.json", {"labels": {"cord": 1}, "spine_ext": {"scheme": "custom"}})
    with pytest.raises(UsageError, match="'custom'"):
        postprocess(masks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--instance-model", "absent"), 5),
        (("--numbering-model", "absent"), 5),
        (("--set", "smoothing_mm=3"), 2),
        (("--set", "instances.smothing_mm=3"), 2),
        (("--set", "instances.smoothing_mm=wide"), 2),
        (("--jobs", "0"), 2),
        (("-device", "abacus"), 2),
        (("--scheme", "spinps"), 2),
        (("--snapshot", "x"), 2),
    ],
)
def test_wrong_options_start_nothing(masks: Path, tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    arguments = ["-i", str(masks), "-o", str(tmp_path / "out"), *words]
    try:
        ended = command.main(arguments)
    except SystemExit as end:
        ended = int(end.code or 0)
    assert ended == code
    assert not (tmp_path / "out").exists()


def test_bids_names_of_an_earlier_case_are_not_taken_away(masks: Path, tmp_path: Path) -> None:
    postprocess(masks, tmp_path / "out", bids=True)
    named = [f for f in files(tmp_path / "out") if f.startswith("derivatives_seg/sub-good/")]
    assert len(named) == 3
    # Its BIDS names are those of the earlier case: what it has left would be removed first.
    (tmp_path / "more").mkdir()
    (masks / "good.nii.gz").rename(tmp_path / "more" / "go-od.nii.gz")
    with pytest.raises(UsageError, match="go-od and good") as caught:
        postprocess(tmp_path / "more", tmp_path / "out", scheme="nnunet14")
    assert caught.value.code == "E-OUT-BIDS"
    assert set(named) < set(files(tmp_path / "out"))
    postprocess(tmp_path / "more", tmp_path / "another", scheme="nnunet14")


def test_settings_of_a_phase_that_does_not_run_are_refused(masks: Path, tmp_path: Path) -> None:
    for assignment, missing in (
        ("numbering.last_vertebra=L5", "--numbering"),
        ("network.mode=fast", "--instance-model"),
    ):
        with pytest.raises(UsageError, match=f"add {missing}") as caught:
            postprocess(masks, tmp_path / "out", assignments=[assignment])
        assert caught.value.code == "E-CONFIG-IDLE"
    result = postprocess(
        masks, tmp_path / "out", assignments=["numbering.last_vertebra=L5"], enforce=True, dry_run=True
    )
    assert result.exit_code == 0


def test_a_model_that_does_not_fit_starts_nothing(masks: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    content = {"format_version": 1, "cutout": {"encoding": "colour"}, "folds": [0]}
    write_json(model / "instance_model.json", content)
    with pytest.raises((UsageError, SetupError), match="colour"):
        postprocess(masks, tmp_path / "out", instance_model=model)
    write_json(model / "instance_model.json", content | {"cutout": {"encoding": "onehot"}})
    with pytest.raises(SetupError, match="fold_0"):
        postprocess(masks, tmp_path / "out", instance_model=model)
    assert not (tmp_path / "out").exists()


def test_the_output_is_no_input(masks: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder of the input"):
        postprocess(masks, masks)
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="folder of the input"):
        postprocess(masks, tmp_path / "images", images=tmp_path / "images")


@pytest.mark.parametrize("place", ["a_file/x", "/proc/foo", "/sys/out", "x" * 300])
@pytest.mark.parametrize("dry_run", [False, True])
def test_an_output_that_cannot_be_made_is_a_wrong_option(
    masks: Path, tmp_path: Path, place: str, dry_run: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if place.startswith("/") and not Path(place).parent.is_dir():
        pytest.skip(f"no {Path(place).parent} here")
    (tmp_path / "a_file").touch()
    before = files(tmp_path)
    words = ["-i", str(masks), "-o", str(tmp_path / place), *(["--dry-run"] if dry_run else [])]
    assert command.main(words) == 2
    said = capsys.readouterr().err
    assert "E-OUT-FOLDER" in said
    assert "Traceback" not in said
    assert files(tmp_path) == before


# ---- resume and interrupts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["mask", "instances", "input", "options", "settings", "journal", "nothing"])
def test_resume_verifies_instead_of_trusting(
    masks: Path, tmp_path: Path, spine: tuple[Volume, Volume], change: str
) -> None:
    out, options = tmp_path / "out", {}
    postprocess(masks, out)
    before = {name: sha256(out / name) for name in files(out) if name.startswith(("good", "instances/good"))}
    if change == "mask":
        (out / "good.nii.gz").write_bytes(b"broken")
    elif change == "instances":
        (out / "instances" / "good.nii.gz").unlink()
    elif change == "input":
        write_volume(spine[0].with_array(np.where(spine[0].array == 3, 0, spine[0].array)), masks / "good.nii.gz")
    elif change == "options":
        options = {"snapshots": True}
    elif change == "settings":
        options = {"assignments": ["instances.min_sliver_mm3=200"]}
    elif change == "journal":
        (out / "cases.jsonl").unlink()
    again = postprocess(masks, out, resume=True, **options)  # type: ignore[arg-type]
    assert again.done == ([] if change == "nothing" else ["good"])
    if change in ("mask", "instances"):
        assert {name: sha256(out / name) for name in before} == before
    assert postprocess(masks, out, resume=True, **options).skipped == ["good"]  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["separate", "picture", "mask"])
def test_an_interrupt_leaves_nothing_half_written(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from nnunet_spine_ext.inference import postprocess as module

    (masks / "later.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())
    owner, name = {
        "separate": (interface, "separate"),
        "picture": (phases_module, "write_bytes"),
        "mask": (module, "write_volume"),
    }[place]
    original, calls = getattr(owner, name), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    out = tmp_path / "out"
    arguments = ["-i", str(masks), "-o", str(out), "--snapshots"]
    assert command.main(arguments) == 130
    assert (out / "instances" / "good.nii.gz").is_file()
    assert not [name for name in files(out) if "later" in name or "lock" in name]
    assert command.main([*arguments, "--resume"]) == 0
    assert (out / "later.nii.gz").is_file()


def test_a_disk_that_stays_full_ends_the_run(masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (masks / f"more{number}.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(phases_module, "write_volume", full)
    result = postprocess(masks, tmp_path / "out")
    assert (result.exit_code, len(result.failed)) == (5, 3)
    assert result.stopped is not None
    assert "before 2 further cases" in result.stopped.found


def test_several_processes_do_the_same(masks: Path, tmp_path: Path, spine: tuple[Volume, Volume]) -> None:
    for number in range(2):
        (masks / f"more{number}.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes())
    wrong("unknown", spine[0], masks / "bad.nii.gz")
    alone = postprocess(masks, tmp_path / "alone", bids=True)
    several = postprocess(masks, tmp_path / "several", bids=True, jobs=2)
    assert (several.done, several.failed) == (alone.done, alone.failed)
    same = [name for name in files(tmp_path / "alone") if name not in ("run.json", "cases.jsonl")]
    assert same == [name for name in files(tmp_path / "several") if name not in ("run.json", "cases.jsonl")]
    assert all(sha256(tmp_path / "alone" / name) == sha256(tmp_path / "several" / name) for name in same)


def test_the_command_says_what_it_did(masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-i", str(masks), "-o", str(tmp_path / "out"), "--json"]
    assert command.main([*arguments, "--dry-run"]) == 0
    assert list(json.loads(capsys.readouterr().out)["planned"]) == ["good"]
    assert command.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["done"] == ["good"]
