"""`nnUNetv2_spine_labels`: masks of one tool in the ids of another, file by file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_labels_points import rotation
from test_measure_cord_canal import tube

from nnunet_spine_ext.cli.labels import main
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.labels import MAPPINGS, SCHEMES, convert_labels, swap_sides
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.label_files import convert
from nnunet_spine_ext.dataset_conversion.label_translation import custom_rows

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = rotation(8.0, -15.0, 95.0) * (3.1, 0.9, 0.7)
OBLIQUE[:3, 3] = (12.0, -7.5, 99.25)


def random_mask(scheme: str, dtype: type = np.uint8, seed: int = 0) -> Volume:
    ids = np.array([0, *SCHEMES[scheme].labels])
    array = np.random.default_rng(seed).choice(ids, (6, 9, 11)).astype(dtype)
    array.reshape(-1)[: len(ids)] = ids
    return Volume(array, OBLIQUE)


def bijective() -> list[tuple[str, str]]:
    return [pair for pair, row in MAPPINGS.items() if row.kind == "bijective"]


@pytest.mark.parametrize(("source", "target"), bijective(), ids=str)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_bijective_translations_give_the_same_mask_back(tmp_path: Path, source: str, target: str, ending: str) -> None:
    mask = random_mask(source)
    write_volume(mask, tmp_path / f"a{ending}")
    convert(tmp_path / f"a{ending}", tmp_path / "there", source=source, target=target)
    convert(tmp_path / "there", tmp_path / "back", source=target, target=source)
    back = read_volume(tmp_path / "back" / f"a{ending}")
    assert np.array_equal(back.array, mask.array)
    assert back.array.dtype == mask.array.dtype
    assert back.same_grid(mask)
    assert back.orientation == mask.orientation


@pytest.mark.parametrize("pair", MAPPINGS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_every_translation_does_to_files_what_it_does_to_arrays(tmp_path: Path, pair: tuple[str, str]) -> None:
    source, target = pair
    mask = random_mask(source)
    if source == "spider":
        mask = mask.with_array(np.where(np.isin(mask.array % 100, [0, 1, 2, 3, 4]), mask.array, 0))
    write_volume(mask, tmp_path / "a.nii.gz")
    run = convert(tmp_path / "a.nii.gz", tmp_path / "out.nii.gz", source=source, target=target)
    assert run.exit_code == 0
    assert not any(problem.code == "W-LABEL-EXCHANGED" for found in run.warnings.values() for problem in found)
    found = read_volume(tmp_path / "out.nii.gz")
    assert np.array_equal(found.array, convert_labels(mask.array, source, target))
    assert found.same_grid(mask)
    assert list(MAPPINGS[pair].lost) == run.to_dict()["lost"]
    assert all(text in run.render() for text in MAPPINGS[pair].lost)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_types_are_kept_where_they_hold_the_ids(tmp_path: Path, dtype: type) -> None:
    import nibabel as nib

    # nibabel writes the type that it is given; our writer has no use for 64 bits.
    array = np.array([0, 26, 49, 60, 61, 100, 62, 41], dtype).reshape(2, 2, 2)
    nib.save(nib.Nifti1Image(array, OBLIQUE), tmp_path / "a.nii.gz")
    convert(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", source="spineps", target="nnunet14")
    assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == np.dtype(dtype)
    array = np.array([0, 24, 124, 0, 0, 0, 0, 0], dtype).reshape(2, 2, 2)
    nib.save(nib.Nifti1Image(array, OBLIQUE), tmp_path / "c.nii.gz")
    convert(tmp_path / "c.nii.gz", tmp_path / "d.nii.gz", source="instances", target="spider")
    assert nib.load(tmp_path / "d.nii.gz").get_data_dtype() == np.dtype(np.uint8 if dtype is np.int8 else dtype)
    assert read_volume(tmp_path / "d.nii.gz").array.reshape(-1).tolist()[:3] == [0, 1, 201]


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    good = random_mask("spineps")
    write_volume(good, folder / "good.nii.gz")
    unknown = good.array.copy()
    unknown[0, 0, :3], unknown[1, 0, 0] = 99, 77
    write_volume(good.with_array(unknown), folder / "unknown.nii.gz")
    (folder / "damaged.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:200])
    write_volume(good.with_array(good.array + 0.5), folder / "soft.mha")
    (folder / "notes.txt").write_text("no mask")
    call = ["convert", "-i", str(folder), "-o", str(tmp_path / "out"), "--from", "spineps", "--to", "nnunet14"]
    assert main([*call, "--json", "--dry-run"]) == 3
    assert not (tmp_path / "out").exists()
    answer = json.loads(capsys.readouterr().out)
    assert answer["done"] == ["good"]
    assert answer["dry_run"] is True
    assert answer["lost"] == list(MAPPINGS["spineps", "nnunet14"].lost)
    assert set(answer["failed"]) == {"unknown", "damaged", "soft"}
    assert answer["failed"]["unknown"]["found"] == "label ids 77 (1 voxels), 99 (3 voxels)"
    assert main(call) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]
    assert "2 done" not in capsys.readouterr().out
    assert main([*call, "--drop-unknown", "--overwrite"]) == 3
    dropped = read_volume(tmp_path / "out" / "unknown.nii.gz").array
    known = np.where(np.isin(unknown, (77, 99)), 0, unknown)
    assert np.array_equal(dropped, convert_labels(known, "spineps", "nnunet14"))
    assert "unknown ids 77 (1 voxels), 99 (3 voxels)" in capsys.readouterr().out


def test_exit_codes_for_wrong_calls(tmp_path: Path) -> None:
    write_volume(random_mask("spineps"), tmp_path / "in" / "a.nii.gz")
    source = ["convert", "-i", str(tmp_path / "in"), "-o"]
    out = str(tmp_path / "out")
    both = ["--from", "spineps", "--to", "nnunet14"]
    assert main([*source, out, "--from", "spinepz", "--to", "nnunet14"]) == 2
    assert main([*source, out, "--from", "spineps"]) == 2
    assert main([*source, out, "--to", "spineps"]) == 2
    assert main([*source, out]) == 2
    assert main([*source, out, "--from", "spineps", "--to", "spineps"]) == 2
    assert main([*source, out, "--from", "spineps", "--to", "spider"]) == 2
    assert main([*source, out, *both, "--instances", str(tmp_path / "in")]) == 2
    assert main([*source, out, *both, "--file-ending", ".jpg"]) == 2
    assert main([*source, str(tmp_path / "in"), *both, "--overwrite"]) == 2
    assert main([*source, str(tmp_path / "file.nii.gz"), *both]) == 2
    assert main(["convert", "-i", str(tmp_path / "none"), "-o", out, *both]) == 4
    assert main(["convert", "-i", str(tmp_path), "-o", out, *both]) == 4
    assert not Path(out).exists()
    assert main([*source, out, *both]) == 0
    assert main([*source, out, *both]) == 2
    assert main([*source, out, *both, "--overwrite"]) == 0
    write_volume(random_mask("spineps"), tmp_path / "in" / "A.mha")
    assert main([*source, str(tmp_path / "o2"), *both]) == 2


def test_inputs_are_never_replaced(tmp_path: Path) -> None:
    write_volume(random_mask("spineps"), tmp_path / "a.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    before = (tmp_path / "a.nii.gz").read_bytes()
    for output in (tmp_path / "a.nii.gz", tmp_path / "link.nii.gz"):
        with pytest.raises(UsageError, match="E-OUT-INPUT"):
            convert(tmp_path / "a.nii.gz", output, source="spineps", target="nnunet14", overwrite=True)
    assert (tmp_path / "a.nii.gz").read_bytes() == before


# Masks that hold classes and levels.


def prediction(folder: Path) -> tuple[Volume, Volume]:
    """Write a folder as our predict command does: classes, and instances beside them."""
    classes = tube()
    array = np.zeros(classes.shape, np.uint8)
    array[classes.array == 60], array[classes.array == 61] = 11, 12
    levels = np.zeros(classes.shape, np.uint8)
    for level, start in ((24, 8), (23, 16), (22, 24)):
        levels[2:28, 0:4, start : start + 4] = level
        levels[2:28, 0:4, start + 4 : start + 6] = 200 + level - 1
        levels[2:28, 0:4, start - 2 : start] = 100 + level
    array[(levels > 0) & (levels < 100)] = 10
    array[levels > 100], array[levels > 200] = 14, 13
    array[2:28, 0:4, 0:6] = 1
    levels[2:28, 0:4, 0:6] = 26
    write_volume(classes.with_array(array), folder / "case.nii.gz")
    write_volume(classes.with_array(levels), folder / "instances" / "case.nii.gz")
    return classes.with_array(array), classes.with_array(levels)


@pytest.mark.parametrize("target", ["spider", "totalspineseg", "totalsegmentator"])
def test_predictions_are_written_in_one_mask_and_come_back(tmp_path: Path, target: str) -> None:
    classes, levels = prediction(tmp_path / "in")
    run = convert(
        tmp_path / "in", tmp_path / "one", source="nnunet14", target=target, instances=tmp_path / "in" / "instances"
    )
    assert run.exit_code == 0
    one = read_volume(tmp_path / "one" / "case.nii.gz").array
    names = {name: key for key, name in SCHEMES[target].labels.items()}
    cord = classes.array == 11
    if target == "spider":
        assert set(np.unique(one[cord])) == {100}
        assert set(np.unique(one[classes.array == 12])) == {100}
        assert {int(one[levels.array == k][0]) for k in (24, 23, 22)} == {1, 2, 3}
    else:
        assert set(np.unique(one[cord])) == {names["cord"]}
        assert [int(one[levels.array == level][0]) for level in (24, 23, 22)] == [names[n] for n in ("L5", "L4", "L3")]
    convert(tmp_path / "one", tmp_path / "back", source=target, target="nnunet14")
    back = read_volume(tmp_path / "back" / "case.nii.gz").array
    kept = {"spider": [12, 14], "totalspineseg": [1, 11, 12, 14], "totalsegmentator": [1, 11]}[target]
    wanted = np.where(np.isin(classes.array, kept), classes.array, 0)
    if target == "spider":
        wanted[cord] = 12
    assert np.array_equal(back, wanted)
    again = read_volume(tmp_path / "back" / "instances" / "case.nii.gz").array
    dropped = {"spider": levels.array == 26, "totalspineseg": None, "totalsegmentator": levels.array > 100}[target]
    wanted = np.where(levels.array > 200, 0, levels.array)
    assert np.array_equal(again, wanted if dropped is None else np.where(dropped, 0, wanted))


def test_voxels_without_an_instance_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes, levels = prediction(tmp_path / "in")
    levels.array[levels.array == 22] = 0
    write_volume(levels, tmp_path / "in" / "instances" / "case.nii.gz")
    lost = int(((classes.array == 10) & (levels.array == 0)).sum())
    write_volume(classes, tmp_path / "in" / "alone.nii.gz")
    call = ["convert", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--from", "nnunet14", "--to", "spider"]
    assert main([*call, "--instances", str(tmp_path / "in" / "instances"), "--file-ending", ".mha"]) == 3
    text = capsys.readouterr().out
    assert f"{lost} voxels of vertebrae, discs or endplates that belong to no instance" in text
    assert "FAILED alone" in text
    assert "no instance mask of this case" in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case.mha"]


def test_instance_masks_on_another_grid_are_refused_and_turned_ones_are_not(tmp_path: Path) -> None:
    classes, levels = prediction(tmp_path / "in")
    options = {"source": "nnunet14", "target": "totalspineseg", "instances": tmp_path / "levels.nii.gz"}
    write_volume(levels.to("PIR"), tmp_path / "levels.nii.gz")
    convert(tmp_path / "in" / "case.nii.gz", tmp_path / "a.nii.gz", **options)  # type: ignore[arg-type]
    options["instances"] = tmp_path / "in" / "instances"
    convert(tmp_path / "in" / "case.nii.gz", tmp_path / "b.nii.gz", **options)  # type: ignore[arg-type]
    a, b = read_volume(tmp_path / "a.nii.gz"), read_volume(tmp_path / "b.nii.gz")
    assert np.array_equal(a.array, b.array)
    assert a.same_grid(classes)
    write_volume(levels.crop((slice(1, None), slice(None), slice(None))), tmp_path / "levels.nii.gz")
    options["instances"] = tmp_path / "levels.nii.gz"
    run = convert(tmp_path / "in" / "case.nii.gz", tmp_path / "c.nii.gz", **options)  # type: ignore[arg-type]
    assert run.failed["case"].code == "E-GEOM-GRID"
    assert run.exit_code == 4


def test_levels_that_are_split_off_are_no_loss(tmp_path: Path) -> None:
    mask = Volume(np.array([1, 2, 41, 92, 50, 0, 0, 0], np.uint8).reshape(2, 2, 2), OBLIQUE)
    write_volume(mask, tmp_path / "a.nii.gz")
    run = convert(tmp_path / "a.nii.gz", tmp_path / "out", source="totalspineseg", target="spineps")
    assert run.warnings == {}
    assert read_volume(tmp_path / "out" / "a.nii.gz").array.reshape(-1).tolist()[:5] == [60, 61, 0, 100, 26]
    assert read_volume(tmp_path / "out" / "instances" / "a.nii.gz").array.reshape(-1).tolist()[:5] == [
        0,
        0,
        20,
        120,
        26,
    ]
    run = convert(tmp_path / "a.nii.gz", tmp_path / "alone.nii.gz", source="totalspineseg", target="spineps")
    assert [problem.found for problem in run.warnings["a"]] == ["L1 (41, 1 voxels): spineps has no id for it"]
    assert run.outputs == {"a": [str(tmp_path / "alone.nii.gz")]}


@pytest.mark.parametrize(("options", "wanted"), [
    ({}, [24, 23, 124]),
    ({"lowest": "L6"}, [25, 24, 125]),
    ({"level_order": "top-down"}, [23, 24, 123]),
])  # fmt: skip
def test_spider_options_reach_the_numbers(tmp_path: Path, options: dict[str, str], wanted: list[int]) -> None:
    write_volume(Volume(np.array([1, 2, 201, 0] * 2, np.uint8).reshape(2, 2, 2), np.eye(4)), tmp_path / "a.mha")
    convert(tmp_path / "a.mha", tmp_path / "b.mha", source="spider", target="instances", **options)  # type: ignore[arg-type]
    assert read_volume(tmp_path / "b.mha").array.reshape(-1).tolist()[:4] == [*wanted, 0]
    with pytest.raises(UsageError):
        convert(tmp_path / "a.mha", tmp_path / "c.mha", source="spider", target="instances", lowest="L9")


# Cord and canal.


@pytest.mark.parametrize(
    ("scheme", "cord", "canal"), [("spineps", 60, 61), ("nnunet14", 11, 12), ("totalspineseg", 1, 2)]
)
def test_exchanged_cord_and_canal_are_found_and_repaired(tmp_path: Path, scheme: str, cord: int, canal: int) -> None:
    mask = tube().to("PIR")
    right = np.select([mask.array == 60, mask.array == 61], [cord, canal], 0).astype(np.uint8)
    wrong = swap_sides(right, ((cord, canal),))
    write_volume(mask.with_array(right), tmp_path / "in" / "right.nii.gz")
    write_volume(mask.with_array(wrong), tmp_path / "in" / "wrong.nii.gz")
    options = {"source": scheme, "target": scheme, "fix_cord_canal": True}
    run = convert(tmp_path / "in", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert {case: [p.code for p in found] for case, found in run.warnings.items()} == {"wrong": ["W-LABEL-EXCHANGED"]}
    assert "they were exchanged" in run.render()
    for name in ("right", "wrong"):
        assert np.array_equal(read_volume(tmp_path / "out" / f"{name}.nii.gz").array, right)
    target = "totalsegmentator" if scheme == "totalspineseg" else "totalsegmentator_mr"
    run = convert(tmp_path / "in" / "wrong.nii.gz", tmp_path / "seen.nii.gz", source=scheme, target=target)
    assert any("--fix-cord-canal" in problem.fix for problem in run.warnings["wrong"])


# Ids of one's own.


def test_maps(tmp_path: Path) -> None:
    wanted = SCHEMES["nnunet14"]
    assert custom_rows(["cord=1", "canal=2,3", "background=9", "10=4"], wanted) == {1: 11, 2: 12, 3: 12, 9: 0, 4: 10}
    assert custom_rows(["b=5", "a=2,1"], None) == {5: 1, 2: 2, 1: 2}
    (tmp_path / "map.yaml").write_text("cord: 1\ncanal: [2, 3]\nbackground: 9\n")
    assert custom_rows([str(tmp_path / "map.yaml")], wanted) == {1: 11, 2: 12, 3: 12, 9: 0}


@pytest.mark.parametrize(
    "words", [["cordd=1"], ["cord=1", "canal=1"], ["cord"], ["cord=x"], ["cord=0"], ["=1"], ["15=1"]]
)
def test_wrong_maps_are_usage_errors(words: list[str]) -> None:
    with pytest.raises(UsageError, match="E-LABEL-MAP"):
        custom_rows(words, SCHEMES["nnunet14"])


def test_maps_alone_before_a_scheme_and_without_one(tmp_path: Path) -> None:
    mask = Volume(np.array([1, 2, 49, 0] * 2, np.uint8).reshape(2, 2, 2), np.eye(4))
    write_volume(mask, tmp_path / "a.nii.gz")
    out = tmp_path / "b.nii.gz"
    call = ["convert", "-i", str(tmp_path / "a.nii.gz"), "-o", str(out), "--overwrite"]
    assert main([*call, "--to", "nnunet14", "--map", "cord=1", "canal=2", "corpus=49"]) == 0
    assert read_volume(out).array.reshape(-1).tolist()[:4] == [11, 12, 10, 0]
    assert main([*call, "--from", "spineps", "--to", "nnunet14", "--map", "cord=1", "background=2,49"]) == 0
    assert read_volume(out).array.reshape(-1).tolist()[:4] == [11, 0, 0, 0]
    assert main([*call, "--map", "bone=49", "rest=1,2"]) == 0
    assert read_volume(out).array.reshape(-1).tolist()[:4] == [2, 2, 1, 0]
    assert main([*call, "--map", "bone=49"]) == 4
    assert main([*call, "--map", "bone=49", "--drop-unknown"]) == 0
    assert read_volume(out).array.reshape(-1).tolist()[:4] == [0, 0, 1, 0]


# The other actions.


def test_list_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(f"{a} to {b}: {row.kind}" in text for (a, b), row in MAPPINGS.items())
    assert main(["list", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["schemes"]) == set(SCHEMES)
    assert {(row["from"], row["to"]) for row in answer["translations"]} == set(MAPPINGS)
    call = ["tables", "-o", str(tmp_path / "t"), "--scheme", "spider", "nnunet14"]
    assert main(call) == 0
    names = {"spider_itksnap.txt", "spider_slicer.ctbl", "nnunet14_itksnap.txt", "nnunet14_slicer.ctbl"}
    assert {path.name for path in (tmp_path / "t").iterdir()} == names
    assert main(call) == 2
    assert main([*call, "--overwrite"]) == 0
    assert main(["tables", "-o", str(tmp_path / "u"), "--scheme", "spidr"]) == 2
    assert not (tmp_path / "u").exists()


# Real masks.


def test_real_masks_keep_their_files(test_data: Path, tmp_path: Path) -> None:
    for name, source, target in (
        ("tptbox/sample_mri/sub-mri_seg-subreg_label-6_msk.nii.gz", "spineps", "nnunet14"),
        ("tptbox/sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz", "instances", "totalspineseg"),
        ("tptbox/sample_ct/sub-ct_seg-subreg_label-22_msk.nii.gz", "spineps", "nnunet14"),
        ("tptbox/sample_ct/sub-ct_seg-vert_label-22_msk.nii.gz", "verse", "instances"),
        ("totalsegmentator/spine_report/example_ct_report/totalseg.nii.gz", "totalsegmentator", "verse"),
        ("sct-testing/template/template/PAM50_small_label_disc.nii.gz", "sct_discs", "instances"),
    ):
        stored = read_volume(test_data / name)
        run = convert(test_data / name, tmp_path / target, source=source, target=target, overwrite=True)
        assert run.exit_code == 0, run.render()
        found = read_volume(Path(next(iter(run.outputs.values()))[0]))
        assert found.array.dtype == stored.array.dtype
        assert found.orientation == stored.orientation
        assert found.same_grid(stored, 1e-4)
        assert np.array_equal(found.array, convert_labels(stored.array, source, target))


def test_real_classes_and_instances_as_spider_and_back(test_data: Path, tmp_path: Path) -> None:
    panoptica = test_data / "panoptica"
    run = convert(
        panoptica / "semantic" / "ref.nii.gz",
        tmp_path / "ref.mha",
        source="spineps",
        target="spider",
        instances=panoptica / "matched_instance" / "ref.nii.gz",
        fix_cord_canal=True,
    )
    assert run.exit_code == 0
    spider = read_volume(tmp_path / "ref.mha")
    levels = read_volume(panoptica / "matched_instance" / "ref.nii.gz")
    assert spider.same_grid(levels)
    ids = [*range(1, 8), 100, *range(201, 208)]
    assert np.unique(spider.array)[1:].tolist() == ids
    # Numbers grow upwards.
    heights = [spider.world(np.argwhere(spider.array == n).mean(axis=0))[2] for n in range(1, 8)]
    assert heights == sorted(heights)
    # The file numbers its vertebrae 2 to 8 from the top; 8 is T1 by name, so that is what its lowest one is called.
    convert(tmp_path / "ref.mha", tmp_path / "back", source="spider", target="spineps", lowest="T1")
    back = read_volume(tmp_path / "back" / "instances" / "ref.mha")
    wanted = np.where((levels.array > 200) | (levels.array == 26), 0, levels.array)
    assert np.array_equal(back.array, wanted)
    canal = read_volume(tmp_path / "back" / "ref.mha").array == 61
    semantic = read_volume(panoptica / "semantic" / "ref.nii.gz").array
    assert np.array_equal(canal, np.isin(semantic, (60, 61)) & (np.where(levels.array > 200, 0, levels.array) == 0))
