"""The report: complete, inert, private, bounded, the same for the same input."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from report_builder import PATIENT, journal_line, make_folder, read_data, spine

from nnunet_spine_ext.cli.report import main
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_json, write_text, write_volume
from nnunet_spine_ext.evaluate.run import evaluate
from nnunet_spine_ext.render.slices import view
from nnunet_spine_ext.report.build import ReportResult, report
from nnunet_spine_ext.report.collect import collect
from nnunet_spine_ext.report.compare import change_between
from nnunet_spine_ext.report.facts import run_facts, sequence_problem
from nnunet_spine_ext.report.layers import layer_of, unpack
from nnunet_spine_ext.report.privacy import Redactor, is_personal
from nnunet_spine_ext.report.scores import read_scores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a prediction folder that the test may change."""
    return make_folder(tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    """Return one report for the tests that only look at it."""
    return report(make_folder(tmp_path_factory.mktemp("report")), title="<script>title()</script>")


def _page(folder: Path, **options: Any) -> str:
    return report(folder, **options).path.read_text(encoding="utf-8")


def test_everything_is_on_the_page_and_failed_cases_come_first(published: ReportResult) -> None:
    result = published
    page = result.path.read_text(encoding="utf-8")
    assert result.exit_code == 0
    assert (result.cases, result.failed, result.without_image) == (4, 2, ())
    rows = re.findall(r'<button type="button" class="open" aria-expanded="false">(.*?)</button>', page)
    assert rows == ["&lt;script&gt;alert(1)&lt;", "gamma", "beta", "alpha"]
    assert "Run of 2026-11-20 14:05" in page
    data, details = read_data(page)
    assert [name for name, *_ in data["cases"]] == [html.unescape(row) for row in rows]
    assert [p["code"] for p in details["gamma"]["problems"]] == ["E-IN-TRUNCATED"]
    assert [(p["code"], p["fix"][:13]) for p in details["beta"]["problems"]] == [("W-GEOM-NOCODE", "look <b>twice")]
    assert [p["plane"] for p in details["alpha"]["pictures"]] == ["sagittal", "coronal", "axial"]
    assert [set(p["layers"]) for p in details["beta"]["pictures"]] == [{"classes"}] * 3
    assert [set(p["layers"]) for p in details["alpha"]["pictures"]] == [{"classes", "instances"}] * 3
    assert {text for _, _, text in details["alpha"]["pictures"][0]["marks"]} == {"L3", "L4", "L5"}
    vertebrae = next(m for m in data["measures"] if m["key"] == "vertebrae")
    assert vertebrae["values"] == [None, None, None, 3]


def test_label_pictures_hold_the_labels_of_the_slice() -> None:
    labels = spine()[1]
    laid_out = view(labels, "sagittal", 11, size=333)
    layer = layer_of(laid_out, labels, {})
    assert (layer.width, layer.height) == laid_out.cut(labels).shape[::-1]
    np.testing.assert_array_equal(unpack(layer), laid_out.cut(labels))


def test_hostile_names_are_inert(published: ReportResult) -> None:
    page = published.path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<script>title" not in page
    assert "<img src=x" not in page
    assert "<b>twice" not in page
    assert "script-src 'sha256-" in html.unescape(page)


def test_no_paths_machines_or_users_unless_asked_for(published: ReportResult) -> None:
    page = published.path.read_text(encoding="utf-8")
    place = published.path.parent.parent
    for text in (PATIENT, "Mustermann", "mustermann", "secret-machine", str(place)):
        assert text not in page
    assert "beta_0000.nii.gz" in page
    shown = _page(published.path.parent, show_paths=True, o=place / "shown.html")
    assert str(place) in shown
    assert "secret-machine" in shown


def test_equal_input_gives_equal_bytes(folder: Path, tmp_path: Path) -> None:
    first = report(folder, o=tmp_path / "one.html").path.read_bytes()
    assert report(folder, o=tmp_path / "two.html").path.read_bytes() == first


def test_scores_are_shown_with_direction_and_per_case(folder: Path, tmp_path: Path) -> None:
    refs = tmp_path / "refs"
    for shift, case in enumerate(("alpha", "beta", "absent")):
        write_volume(spine(shift)[1], refs / f"{case}.nii.gz")
    write_volume(spine()[2], refs / "instances" / "alpha.nii.gz")
    evaluate(refs, folder, tmp_path / "scores", scheme="nnunet14")
    scores = read_scores(tmp_path / "scores")
    page = _page(folder, evaluation=tmp_path / "scores")
    mean = scores.overall["dice"].mean
    assert mean is not None
    assert f'<span class="value">{mean:.3f}' in page
    assert "scored as empty: absent" in page
    assert "PQ vertebra" in page
    assert "higher is better" in page
    assert "lower is better" in page
    data, details = read_data(page)
    names = [name for name, *_ in data["cases"]]
    # Cases without a mask are the worst, then the lowest mean.
    assert names == ["<script>alert(1)<", "gamma", "absent", "beta", "alpha"]
    assert data["sort"] == "mean-dice"
    classes = next(scope for scope in data["scores"]["scopes"] if scope["scope"] == "class")
    place = classes["labels"].index("disc"), classes["metrics"].index("dice")
    expected = next(r.value for r in scores.by_case["beta"] if (r.label, r.metric) == ("disc", "dice"))
    assert classes["values"][names.index("beta")][place[0]][place[1]] == pytest.approx(expected, abs=1e-4)
    worst = next(m for m in data["measures"] if m["key"] == "worst-dice")
    assert worst["notes"][names.index("beta")] in classes["labels"]
    # Without a mask all of them are the worst.
    assert worst["notes"][names.index("absent")].endswith(" classes")
    assert details["absent"]["problems"][0]["code"] == "E-REPORT-MISSING"
    for title in ("Dice per vertebra", "ASSD per vertebra", "Volume per vertebra", "Dice per class"):
        assert f"<figcaption>{title}</figcaption>" in page


def test_regions_and_intervals_of_the_means_are_shown(folder: Path, tmp_path: Path) -> None:
    for shift, case in enumerate(("alpha", "beta")):
        write_volume(spine(shift)[1], tmp_path / "refs" / f"{case}.nii.gz")
        write_volume(spine(shift)[2], tmp_path / "refs" / "instances" / f"{case}.nii.gz")
    write_volume(spine()[2], folder / "instances" / "beta.nii.gz")
    evaluate(tmp_path / "refs", folder, tmp_path / "scores", scheme="nnunet14", regions=True)
    page = _page(folder, evaluation=tmp_path / "scores")
    low, high = read_scores(tmp_path / "scores").intervals["dice"]
    assert f"95 % {low:.3f} to {high:.3f}" in page
    assert "<figcaption>Dice per region</figcaption>" in page
    assert ">lumbar corpus</th>" in page
    # What every case has per region would outweigh the rest of the page.
    assert "region" not in [scope["scope"] for scope in read_data(page)[0]["scores"]["scopes"]]


def test_the_page_says_why_instances_have_no_scores(folder: Path, tmp_path: Path) -> None:
    write_volume(spine()[1], tmp_path / "refs" / "beta.nii.gz")
    evaluate(tmp_path / "refs", folder, tmp_path / "scores", scheme="nnunet14")
    page = _page(folder, evaluation=tmp_path / "scores")
    assert "Instances are not scored: no instance masks of the references." in page


def test_an_image_that_is_missing_broken_or_another_one_is_said(folder: Path) -> None:
    images = folder.parent / "images"
    (images / "alpha_0000.nii.gz").unlink()
    (images / "beta_0000.nii.gz").write_bytes(b"\x1f\x8b broken")
    result = report(folder)
    page = result.path.read_text(encoding="utf-8")
    assert result.exit_code == 0
    assert result.without_image == ("alpha",)
    assert "the image was not found" in page
    assert "labels only" in page
    assert "the image is not the file that was predicted" in page
    assert all(p["base"] is None for details in read_data(page)[1].values() for p in details["pictures"])


def test_images_can_be_named(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "images").rename(tmp_path / "moved")
    assert report(folder).without_image == ("beta", "alpha")
    assert report(folder, i=tmp_path / "moved").without_image == ()


def test_a_mask_on_another_grid_than_the_image_is_resampled_and_said(folder: Path) -> None:
    mask = read_volume(folder / "alpha.nii.gz")
    write_volume(mask.crop((slice(0, 24), slice(0, 40), slice(4, 48))), folder / "alpha.nii.gz")
    page = _page(folder)
    assert "image and mask are on different grids" in page
    assert "the instance mask is on another grid" in page


def test_an_unreadable_mask_is_a_failed_case_and_exit_code_3(folder: Path) -> None:
    (folder / "beta.nii.gz").write_bytes(b"\x1f\x8b broken")
    result = report(folder)
    assert result.exit_code == 3
    assert result.unreadable == ("beta",)
    assert "E-REPORT-MASK" in result.path.read_text(encoding="utf-8")


def test_a_mask_that_vanished_is_a_failed_case(folder: Path) -> None:
    (folder / "beta.nii.gz").unlink()
    assert {case.name: case.status for case in collect(folder).cases}["beta"] == "failed"
    assert "E-REPORT-NOMASK" in _page(folder)


def test_a_folder_of_stock_nnunet_works(folder: Path) -> None:
    (folder / "cases.jsonl").unlink()
    (folder / "run.json").unlink()
    write_json(folder / "dataset.json", {"labels": {"background": 0, "cord": 11, "tube": 12}})
    page = _page(folder, i=folder.parent / "images")
    assert "no run.json in this folder" in page
    assert "tube" in page
    assert "label 10" in page


def test_a_damaged_journal_line_is_noted(folder: Path) -> None:
    with (folder / "cases.jsonl").open("a") as stream:
        stream.write('{"case": "del')
    assert "line 5 of cases.jsonl" in _page(folder)


@pytest.mark.parametrize("megabytes", [0.35, 0.22, 0.17])
def test_the_file_keeps_to_its_size(folder: Path, megabytes: float) -> None:
    assert report(folder, max_size=megabytes).size <= megabytes * 1e6


def test_pictures_that_do_not_fit_are_left_out_and_that_is_said(folder: Path) -> None:
    page = _page(folder, max_size=0.13)
    assert "--max-size" in page
    assert all(details["pictures"] == [] for details in read_data(page)[1].values())


def test_nothing_to_report_is_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoInputError, match="E-REPORT-FOLDER"):
        report(tmp_path / "nowhere")
    assert main([str(tmp_path)]) == 4
    assert "E-REPORT-EMPTY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"max_size": 0}, "E-REPORT-SIZE"),
        ({"i": "nowhere"}, "E-REPORT-IMAGES"),
        ({"evaluation": "nowhere"}, "E-REPORT-SCORES"),
        ({"before": "nowhere"}, "E-REPORT-BEFORE"),
    ],
)
def test_wrong_options_are_refused(folder: Path, options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError, match=code):
        report(folder, **options)
    assert not (folder / "report.html").exists()


def test_a_place_that_cannot_be_written_is_an_error(folder: Path) -> None:
    (folder / "file").write_text("x")
    with pytest.raises(SetupError, match="E-REPORT-WRITE"):
        report(folder, o=folder / "file" / "report.html")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([20, 21, 22, 26], "no L4 between"),
        ([8, 9, 11], "no T3"),
        ([21, 20], "L2, L1"),
        ([18, 20], None),
        ([19, 28, 20], None),
        ([24, 26], None),
        ([5], None),
    ],
)
def test_skipped_and_exchanged_numbers_are_flagged(ids: list[int], words: str | None) -> None:
    problem = sequence_problem([(n, -10.0 * k) for k, n in enumerate(ids)], "case")
    assert (problem is None) == (words is None)
    if problem is not None and words is not None:
        assert problem.code == "W-LABEL-ORDER"
        assert words in problem.found


def test_vertebrae_that_are_only_counted_are_not_named(folder: Path) -> None:
    write_json(folder / "qc" / "alpha.json", {"numbered": False, "vertebrae": 3})
    page = _page(folder)
    data, details = read_data(page)
    assert details["alpha"]["counted"]
    assert {text for _, _, text in details["alpha"]["pictures"][0]["marks"]} == {"v22", "v23", "v24"}
    assert data["names"]["counted"]["23"][0] == "v23"
    assert "not numbered anatomically" in page
    assert "Volume per vertebra" not in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open /data/a b/x.nii.gz; see /srv/y/", "cannot open x.nii.gz; see y"),
        (r"C:\Users\Max\scan.nii.gz is broken", "scan.nii.gz is broken"),
        ("file:///srv/max/x.nii", "x.nii"),
        ("~/secret/x.nii", "x.nii"),
        ("~max/secret/x.nii", "x.nii"),
        # The folder of a user is known: what lies in it must not keep the user's name.
        ("cannot read /srv/max/data/x.nii.gz: no", "cannot read x.nii.gz: no"),
        ("/srv/max is full, /srv/max/ too; /srv/max2/y.nii", "max is full, max too; y.nii"),
        ("/Users/max is full", "~ is full"),
        ("at C:\\Users\\Max", "at ~"),
        (r"\\server\max\x.nii and //server/max/y.nii", "x.nii and y.nii"),
        ("12 mm/s and/or 1/2 of https://example.org/a/b", "12 mm/s and/or 1/2 of https://example.org/a/b"),
        ("sizes 3 / 4", "sizes 3 / 4"),
    ],
)
def test_paths_in_texts_become_names(text: str, expected: str) -> None:
    assert Redactor(known=["/data/a b/x.nii.gz", "/srv/max"]).text(text) == expected
    assert Redactor(show_paths=True).text(text) == text


def test_run_facts_are_readable_text() -> None:
    run = {
        "seed": 3,
        "labels": {"1": "x"},
        "options": {"tta": None, "deep": {"on": True, "steps": [1, 2]}},
        "user": "m",
    }
    assert run_facts(run, Redactor()) == [
        ("run", [("seed", "3")]),
        ("options", [("deep.on", "yes"), ("deep.steps", "1, 2")]),
    ]


def test_an_earlier_version_is_shown_and_what_changed_is_counted(folder: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    write_volume(spine(1)[1], earlier / "alpha.nii.gz")
    write_volume(spine(1)[2], earlier / "instances" / "alpha.nii.gz")
    data, details = read_data(_page(folder, before=earlier))
    layers = set(details["alpha"]["pictures"][0]["layers"])
    assert layers == {"classes", "instances", "before-classes", "before-instances"}
    assert "there is no earlier version of this mask" in details["beta"]["notes"]
    assert details["beta"]["change"] is None
    expected = change_between(spine(1)[1], spine()[1])
    changed = next(m for m in data["measures"] if m["key"] == "changed")
    values = dict(zip([name for name, *_ in data["cases"]], changed["values"], strict=True))
    assert values["alpha"] == pytest.approx(expected.changed_ml, rel=1e-4)
    assert values["beta"] is None
    assert {row[0] for row in details["alpha"]["change"]} == {3, 10, 11, 12, 14}


def test_change_is_counted_in_millilitres_and_per_label() -> None:
    before, after = spine()[1], spine()[1]
    array = after.array.copy()
    array[after.array == 3] = 10
    change = change_between(before, after.with_array(array))
    moved = np.count_nonzero(before.array == 3) * 6.0 / 1000
    assert change.changed_ml == pytest.approx(moved)
    rows = {row.label: row for row in change.labels}
    assert rows[3].after_ml == 0
    assert rows[3].dice == 0
    assert rows[11].dice == 1
    assert rows[10].after_ml - rows[10].before_ml == pytest.approx(moved)


def test_figures_are_written_when_asked_for(folder: Path, tmp_path: Path) -> None:
    result = report(folder, figures=tmp_path / "figures")
    files = sorted(p.relative_to(tmp_path / "figures").as_posix() for p in (tmp_path / "figures").rglob("*.*"))
    assert result.figures == len(files)
    assert files == [
        "cases/alpha.png", "cases/beta.png", "cases_seconds.png", "cases_seconds.svg", "disc_volume.png",
        "disc_volume.svg", "vertebra_volume.png", "vertebra_volume.svg",
    ]  # fmt: skip
    assert "figures written" in result.render()
    assert ">L4</text>" in (tmp_path / "figures" / "vertebra_volume.svg").read_text()


def test_headers_and_sidecars_stay_out_of_the_page_and_its_figures(folder: Path, tmp_path: Path) -> None:
    for name in ("alpha.nii.gz", "instances/alpha.nii.gz", "../images/alpha_0000.nii.gz"):
        image = nibabel.load(folder / name)
        image.header["descrip"] = PATIENT.encode()
        image.header["intent_name"] = b"Max"
        nibabel.save(image, folder / name)
    sidecar = {"PatientName": PATIENT, "PatientID": "4711", "StudyDate": "20260704", "numbered": True}
    write_json(folder / "qc" / "alpha.json", sidecar | {"model": f"/data/{PATIENT}/weights", "AccessionNumber": "A-17"})
    evaluation = tmp_path / PATIENT
    write_volume(spine()[1], evaluation / "refs" / "alpha.nii.gz")
    write_volume(spine()[1].crop((slice(0, 9), slice(0, 9), slice(0, 9))), evaluation / "refs" / "beta.nii.gz")
    evaluate(evaluation / "refs", folder, evaluation / "scores", scheme="nnunet14")
    page = _page(folder, evaluation=evaluation / "scores", before=folder, figures=tmp_path / "figures")
    files = [path.read_bytes() for path in (tmp_path / "figures").rglob("*.*")]
    assert files
    for text in (PATIENT, "Mustermann", "4711", "20260704", "A-17", str(tmp_path)):
        assert text not in page
        assert not any(text.encode() in content for content in files)


@pytest.mark.parametrize(
    ("key", "personal"),
    [
        ("PatientName", True),
        ("StudyInstanceUID", True),
        ("AcquisitionTime", True),
        ("host-name", True),
        ("user", True),
        ("ManufacturersModelName", False),
        ("numbered", False),
        ("date", False),
        ("curved_users_guide", False),
    ],
)
def test_keys_that_name_a_person_or_a_machine(key: str, personal: bool) -> None:
    assert is_personal(key) == personal


def test_the_report_keeps_its_id_when_scores_or_the_title_are_added(folder: Path, tmp_path: Path) -> None:
    first = read_data(_page(folder))[0]["id"]
    write_volume(spine()[1], tmp_path / "refs" / "beta.nii.gz")
    evaluate(tmp_path / "refs", folder, tmp_path / "scores", scheme="nnunet14")
    assert read_data(_page(folder, evaluation=tmp_path / "scores", title="Another"))[0]["id"] == first
    write_json(folder / "run.json", {"date": "2027-01-01"})
    assert read_data(_page(folder))[0]["id"] != first


def test_names_of_every_script_are_shown_as_they_are(folder: Path) -> None:
    names = ["Wirbelsäule Ü1", "脊椎-01", "quote\"and'tick", "a&b;\u2028"]
    lines = [journal_line(name, status="failed") for name in names]
    write_text(folder / "cases.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    page = _page(folder)
    assert {name for name, *_ in read_data(page)[0]["cases"]} == {*names, "alpha", "beta"}
    for name in names:
        assert html.escape(name).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
