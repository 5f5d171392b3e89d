"""The report: complete, inert, private, bounded, the same for the same input."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.cli.report import main
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_volume, sha256, write_json, write_text, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.evaluate.run import evaluate
from nnunet_spine_ext.report.build import ReportResult, report
from nnunet_spine_ext.report.collect import collect
from nnunet_spine_ext.report.facts import run_facts, sequence_problem
from nnunet_spine_ext.report.privacy import Redactor
from nnunet_spine_ext.report.scores import read_scores

EVIL = "<script>alert(1)<"
PATIENT = "Mustermann Max"
VOID = {"meta", "img", "input", "line", "circle", "rect", "path", "br", "hr", "link"}


def _spine(shift: int = 0) -> tuple[Volume, Volume, Volume]:
    """Image, 14-class mask and instances (L3, L4, L5 and discs) of 24 x 40 x 48 voxels, stored as LPS."""
    shape = (24, 40, 48)
    labels, instances = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    for level, vertebra in enumerate((24, 23, 22)):
        low = 3 + 15 * level + shift
        labels[6:18, 20:32, low : low + 10] = 10
        labels[10:14, 4:10, low : low + 8] = 3
        instances[6:18, 4:32, low : low + 10] = vertebra
        labels[6:18, 20:32, low + 10 : low + 14] = 14
        instances[6:18, 20:32, low + 10 : low + 14] = 100 + vertebra - 1
    instances[labels == 0] = 0
    labels[9:15, 11:18] = 12
    labels[11:13, 13:16] = 11
    image = np.random.default_rng(0).normal(100, 20, shape) + 30.0 * labels
    affine = np.diag([2.0, 1.5, 2.0, 1.0])
    volumes = [Volume(array, affine).to("LPS") for array in (image.astype(np.int16), labels, instances)]
    return volumes[0], volumes[1], volumes[2]


def _line(case: str, image: Path | None = None, **facts: Any) -> dict[str, Any]:
    inputs = [{"file": image.name, "sha256": sha256(image)}] if image else []
    return {"case": case, "status": "done", "seconds": 1.5, "warnings": [], "error": None, "input": inputs} | facts


def _make_folder(base: Path) -> Path:
    """Write a prediction folder: two good cases (one warned), one failed, one whose name and texts are hostile."""
    images, out = base / PATIENT / "images", base / PATIENT / "out"
    image, labels, instances = _spine()
    lines = []
    for case in ("alpha", "beta"):
        write_volume(image, images / f"{case}_0000.nii.gz")
        write_volume(labels, out / f"{case}.nii.gz")
        lines.append(_line(case, images / f"{case}_0000.nii.gz"))
    write_volume(instances, out / "instances" / "alpha.nii.gz")
    problem = {"severity": "warning", "code": "W-GEOM-NOCODE", "file": str(images / "beta_0000.nii.gz")}
    problem |= {"found": f"codes 0 in {images}/beta_0000.nii.gz", "expected": "codes", "fix": "look <b>twice</b>"}
    lines[1]["warnings"] = [problem]
    error = problem | {"severity": "error", "code": "E-IN-TRUNCATED", "fix": "copy it again"}
    lines.append(_line("gamma", status="failed", error=error))
    lines.append(_line(EVIL, status="failed", error=error | {"found": "<img src=x onerror=alert(1)>"}))
    write_text(out / "cases.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    run = {
        "nnunet_spine_ext": "0.1.0",
        "date": "2026-11-20T14:05:11+0000",
        "hostname": "secret-machine",
        "versions": {"torch": "2.15"},
        "options": {"user": "mustermann", "tta": "mirror", "model": f"/srv/{PATIENT}/model"},
        "input": str(images),
    }
    write_json(out / "run.json", run)
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a prediction folder that the test may change."""
    return _make_folder(tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    """Return one report for the tests that only look at it."""
    return report(_make_folder(tmp_path_factory.mktemp("report")), title="<script>title()</script>")


def _page(folder: Path, **options: Any) -> str:
    return report(folder, **options).path.read_text(encoding="utf-8")


class _Balance(HTMLParser):
    """Collects what is wrong with the nesting, all ids, and everything that would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            if key in ("src", "href"):
                self.sources.append(str(value))
            if key.startswith("on"):
                self.handlers.append(key)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def _parsed(page: str) -> _Balance:
    parser = _Balance()
    parser.feed(page)
    return parser


def test_everything_is_on_the_page_and_failed_cases_come_first(published: ReportResult) -> None:
    result = published
    page = result.path.read_text(encoding="utf-8")
    assert result.exit_code == 0
    assert (result.cases, result.failed, result.without_image) == (4, 2, ())
    names = re.findall(r'<span class="name">(.*?)</span>', page)
    assert names == ["&lt;script&gt;alert(1)&lt;", "gamma", "beta", "alpha"]
    for text in ("E-IN-TRUNCATED", "copy it again", "W-GEOM-NOCODE", "Run of 2026-11-20 14:05", "mirror", ">L4</text>"):
        assert text in page
    assert page.count('<figure class="plane') == 6
    assert page.count('class="layer fill instances"') == 3
    assert "3 vertebrae" in page


def test_the_page_is_well_formed_and_loads_nothing(published: ReportResult) -> None:
    page = published.path.read_text(encoding="utf-8")
    parser = _parsed(page)
    assert (parser.wrong, parser.open, parser.handlers, parser.scripts) == ([], [], [], 1)
    assert len(set(parser.ids)) == len(parser.ids)
    assert parser.sources
    assert all(source.startswith(("data:image/", "#")) for source in parser.sources)
    assert "http://" not in page
    assert "https://" not in page


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
        write_volume(_spine(shift)[1], refs / f"{case}.nii.gz")
    write_volume(_spine()[2], refs / "instances" / "alpha.nii.gz")
    evaluate(refs, folder, tmp_path / "scores", scheme="nnunet14")
    scores = read_scores(tmp_path / "scores")
    page = _page(folder, evaluation=tmp_path / "scores")
    mean = scores.overall["dice"].mean
    assert mean is not None
    assert f'<span class="value">{mean:.3f}' in page
    assert (
        f"beta: {next(r.value for r in scores.by_case['beta'] if (r.label, r.metric) == ('disc', 'dice')):.3f}" in page
    )
    assert "scored as empty: absent" in page
    assert "PQ vertebra" in page
    assert "higher is better" in page
    assert "lower is better" in page
    worst_first = re.findall(r'<tr><th scope="row">(?:<a href="#case-\d+">)?(\w+)', page.partition("worst first")[2])
    assert worst_first[:3] == ["absent", "beta", "alpha"]
    assert _parsed(page).wrong == []


def test_the_page_says_why_instances_have_no_scores(folder: Path, tmp_path: Path) -> None:
    write_volume(_spine()[1], tmp_path / "refs" / "beta.nii.gz")
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
    assert 'class="base"' not in page


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
    assert '<figure class="plane' not in page


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
    assert ">v23</text>" in page
    assert ">L4</text>" not in page
    assert "not numbered anatomically" in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open /data/a b/x.nii.gz; see /srv/y/", "cannot open x.nii.gz; see y"),
        (r"C:\Users\Max\scan.nii.gz is broken", "scan.nii.gz is broken"),
        ("file:///srv/max/x.nii", "x.nii"),
        ("~/secret/x.nii", "x.nii"),
        ("12 mm/s and/or 1/2 of https://example.org/a/b", "12 mm/s and/or 1/2 of https://example.org/a/b"),
        ("sizes 3 / 4", "sizes 3 / 4"),
    ],
)
def test_paths_in_texts_become_names(text: str, expected: str) -> None:
    assert Redactor(known=["/data/a b/x.nii.gz"]).text(text) == expected
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


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium: the page is not opened in a browser")
def test_the_script_runs_in_a_browser_without_errors(published: ReportResult, tmp_path: Path) -> None:
    page = published.path
    call = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    call += ["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", f"{page.as_uri()}#case-4"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    # The script opened the case that the address names; the content policy therefore let it run.
    assert re.search(r'<details class="case done[^"]* current" id="case-4"[^>]* open', done.stdout), done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr
