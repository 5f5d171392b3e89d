"""The page and the figures of a study: valid, closed to the network, every text escaped, intervals drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import chromium, find_chromium
from study_cohort import DROPS, SHARES, Planted, make_study, read_rows, write_rows

from nnunet_spine_ext.render.drawing import Box, Line, Outline, Text
from nnunet_spine_ext.study import publishing
from nnunet_spine_ext.study.analysis import StudySummary, analyse
from nnunet_spine_ext.study.figures import figures
from nnunet_spine_ext.study.statistics import Estimate
from nnunet_spine_ext.study.tables import Column, Table, csv_text, markdown_text

EVIL = '"><script>alert(1)</script>|'


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudySummary]:
    """Return an analysed study with a scanner and a strategy that have hostile names."""
    folder = tmp_path_factory.mktemp("study")
    planted = Planted(drops={**DROPS, EVIL: 0.3}, shares={**SHARES, EVIL: 0.4}, subjects=8, noise=0.02)
    make_study(folder, planted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "_PNG_SCALE", 0.5)
        yield analyse(folder, bootstrap=100)


@pytest.fixture(scope="module")
def page(summary: StudySummary) -> str:
    """Return its page."""
    return (summary.folder / "index.html").read_text(encoding="utf-8")


def test_the_page_is_valid_html(page: str) -> None:
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed: pip install -e '.[dev]'")
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    document = parser.parse(page)
    assert parser.errors == []
    names = [element.tag for element in document.iter() if isinstance(element.tag, str)]
    assert "script" not in names
    assert names.count("table") == 10
    identifiers = [element.get("id") for element in document.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    links = [element.get("href") for element in document.iter() if element.get("href")]
    assert all(link.startswith("#") and link[1:] in identifiers for link in links)


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    assert "default-src 'none'" in page
    assert re.findall(r"(?:src|href)=\"(?!#)[^\"]*\"|url\(|@import|https?://", page) == []
    assert len(page) < 400_000


def test_names_are_escaped_everywhere(summary: StudySummary, page: str) -> None:
    assert "<script" not in page
    for slug in range(1, 8):
        text = (summary.folder / f"figures/figure{slug}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(text)  # noqa: S314
    for line in (summary.folder / "tables/table1.md").read_text(encoding="utf-8").splitlines():
        assert "<script" not in line
    assert any(row["scanner"] == EVIL for row in read_rows(summary.folder / "tables/table1.csv"))


def test_every_table_row_has_as_many_cells_as_the_head(page: str) -> None:
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        rows = [len(re.findall(r"<t[hd]\b", row)) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
        assert len(set(rows)) == 1


def test_figures_draw_an_interval_for_every_value_that_has_one(summary: StudySummary) -> None:
    drawn = {figure.slug: figure.draw(True) for figure in figures(summary.results)}
    scanners = len(DROPS) + 2
    bars = [shape for shape in drawn["figure1"].shapes if isinstance(shape, Box)]
    errors = [s for s in drawn["figure1"].shapes if isinstance(s, Line) and s.style == "error" and s.y1 == s.y2]
    assert len(bars) == len(errors) == scanners
    marks = [s for s in drawn["figure2"].shapes if isinstance(s, Outline)]
    whiskers = [s for s in drawn["figure2"].shapes if isinstance(s, Line) and re.fullmatch(r"series-\d", s.style)]
    # Legend and rows: six targets and their mean for each of the seven strategies that were run.
    assert len(marks) == 7 + 7 * 7
    assert len(whiskers) == 7 * 7
    assert {s.text for s in drawn["figure4"].shapes if isinstance(s, Text)} >= {"C1", "T12", "L5", "S1"}
    cells = [s for s in drawn["figure6"].shapes if isinstance(s, Box) and s.tip]
    assert len(cells) == 4 * scanners
    for drawing in drawn.values():
        for shape in drawing.shapes:
            if isinstance(shape, Text):
                wide = 6.0 * len(shape.text) * {"start": (0, 1), "middle": (0.5, 0.5), "end": (1, 0)}[shape.anchor][1]
                assert -1 <= shape.x <= drawing.width
                assert shape.x + (wide if len(shape.text) < 25 else 0) <= drawing.width + 12, shape.text
                assert 0 <= shape.y <= drawing.height


def test_figure_data_are_the_numbers_of_the_tables(summary: StudySummary) -> None:
    table = {row["key"]: row for row in read_rows(summary.folder / "tables/table3.csv")}
    for row in read_rows(summary.folder / "figures/figure2.csv"):
        if row["scanner"] in DROPS:
            assert row["dice"] == table[row["strategy"]][row["scanner"]]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: the page is not opened in it")
def test_the_page_opens_without_errors_and_fits_a_telephone(summary: StudySummary, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:
        for width in (1440, 390):
            browser.resize(width, 900)
            browser.open(summary.folder / "index.html")
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.errors == []
        assert all(request.startswith(("file:", "about:", "data:")) for request in browser.requests)


def test_a_table_is_the_same_in_all_forms() -> None:
    columns = (
        Column("name", "Name"), Column("n", "N", "number", 1), Column("dice", "Dice", "estimate"),
        Column("share", "Share", "share"), Column("hidden", "hidden", wide=False),
    )  # fmt: skip
    rows = (
        {"name": "a|b", "n": 2.0, "dice": Estimate(0.5, 0.4, 0.6), "share": Estimate(0.25, 0.2, 0.3), "hidden": "x"},
        {"name": "c", "dice": Estimate(float("nan"), note="too few"), "share": Estimate(float("nan"), note="unstable")},
    )
    table = Table("t", "Title", columns, rows, ("A note.",), frozenset({0}))
    assert csv_text(table).splitlines() == [
        "name,n,dice,dice_low,dice_high,share,share_low,share_high,share_note,hidden",
        "a|b,2,0.5,0.4,0.6,0.25,0.2,0.3,,x",
        "c,,,,,,,,unstable,",
    ]
    assert markdown_text(table).splitlines()[2:] == [
        "| Name | N | Dice | Share |",
        "|---|---:|---:|---:|",
        "| **a\\|b** | **2.0** | **0.500 [0.400, 0.600]** | **25.0 % [20.0, 30.0]** |",
        "| c | – | too few | unstable |",
        "",
        "- A note.",
    ]


def test_a_study_with_many_scanners_shows_their_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_PNG_SCALE", 0.5)
    drops = {f"site-{k:02d}": 0.1 + 0.02 * k for k in range(9)}
    make_study(tmp_path, Planted(drops=drops, subjects=6, samples_on="site-03"))
    rows = [row for row in read_rows(tmp_path / "cases.csv") if row["strategy"] in ("none", "match", "finetuned")]
    write_rows(tmp_path / "cases.csv", list(rows[0]), rows)
    found = analyse(tmp_path, bootstrap=20)
    drawing = next(f for f in figures(found.results) if f.slug == "figure2").draw(True)
    assert [s.text for s in drawing.shapes if isinstance(s, Text)].count("mean of targets") == 1
    assert not any(isinstance(s, Text) and s.text == "site-01" for s in drawing.shapes)
