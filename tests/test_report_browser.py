"""The report in a real browser: no errors, no requests, and everything on it works by pointer and by keyboard."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, chromium, find_chromium
from report_builder import EVIL, make_cohort

from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.report.build import report

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: the report is not opened in it")

COUNT = 8
ORDER = "Array.from(document.querySelectorAll('tbody.case:not([hidden]) .open'), (b) => b.textContent)"
PIXELS = """((selector) => {
  const canvas = document.querySelector(selector);
  if (!canvas.width) return {};
  const found = {};
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  const bytes = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  for (let at = 0; at < bytes.length; at += 4) {
    if (bytes[at + 3] > 200) {
      const key = [bytes[at], bytes[at + 1], bytes[at + 2]].join();
      found[key] = (found[key] || 0) + 1;
    }
  }
  return found;
})"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report with scores, instances, an earlier version, a warned and a failed case."""
    return report(**make_cohort(tmp_path_factory.mktemp("cohort"), COUNT)).path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return one browser for all tests of this file."""
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, path: Path) -> Iterator[Page]:
    """Return the report, freshly opened with nothing remembered; errors fail the test that caused them."""
    browser.resize(1280, 900)
    browser.prefer("light")
    browser.errors.clear()
    browser.open(path)
    browser.evaluate("localStorage.clear()")
    browser.open(path)
    yield browser
    assert browser.errors == []


def _names(page: Page) -> list[str]:
    return page.evaluate(ORDER)


def _click(page: Page, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).click()")


def _type(page: Page, selector: str, text: str) -> None:
    page.evaluate(
        f"(() => {{ const e = document.querySelector({selector!r}); e.value = {text!r};"
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def _show_pictures(page: Page) -> None:
    """Scroll to the pictures of the open case: what nobody sees is not painted."""
    page.evaluate("document.querySelector('tbody.current .stack').scrollIntoView({block: 'center'})")
    page.wait("document.querySelector('tbody.current canvas.after').width > 0")


def _values(page: Page, key: str) -> list[Any]:
    """Return the values of a measure in the order of the rows that are shown."""
    places = "Array.from(document.querySelectorAll('tbody.case:not([hidden])'), (b) => Number(b.dataset.n))"
    measure = f"JSON.parse(document.getElementById('data').textContent).measures.find((m) => m.key === {key!r})"
    return page.evaluate(f"(() => {{ const m = {measure}; return {places}.map((n) => m.values[n]); }})()")


def _pixels(page: Page, selector: str) -> dict[str, int]:
    return page.evaluate(f"{PIXELS}({selector!r})")


def test_it_opens_without_errors_and_without_a_network(page: Page, path: Path) -> None:
    outside = [url for url in page.requests if not url.startswith(("file:", "data:", "about:", "blob:"))]
    assert outside == []
    assert page.evaluate("document.title") == "Spine segmentation report"
    assert _names(page)[0] == EVIL
    # The worst case that has pictures is open, and painted.
    _show_pictures(page)
    assert page.evaluate("document.querySelector('tbody.current .open').textContent") == _names(page)[1]
    assert _pixels(page, "tbody.current canvas.after")


def test_the_policy_stops_every_request(page: Page) -> None:
    assert page.evaluate("fetch('https://example.org/').then(() => 'came through', () => 'stopped')") == "stopped"
    page.wait("true")
    refused = [text for text in page.errors if "Content Security Policy" in text]
    page.errors.clear()
    assert refused


def test_heads_sort_by_pointer_and_keyboard(page: Page) -> None:
    first = _values(page, "mean-dice")
    # The failed case has no score, and is worse than any.
    assert first[0] is None
    assert first[1:] == sorted(first[1:])
    _click(page, "th[data-sort='mean-assd'] button")
    values = [value for value in _values(page, "mean-assd") if value is not None]
    assert values == sorted(values, reverse=True)
    assert page.evaluate("document.querySelector(\"th[data-sort='mean-assd']\").ariaSort") == "descending"
    assert page.evaluate("document.querySelector(\"th[data-sort='mean-dice']\").ariaSort") == "none"
    page.evaluate("document.querySelector(\"th[data-sort='mean-assd'] button\").focus()")
    page.press("Enter")
    again = [value for value in _values(page, "mean-assd") if value is not None]
    assert again == values[::-1]
    _click(page, "th[data-sort='name'] button")
    assert _names(page) == sorted(_names(page))


def test_the_chosen_measure_gets_a_column(page: Page) -> None:
    _type(page, "#sort", "volume")
    assert page.evaluate("document.getElementById('key').textContent") == "Volume"
    shown = page.evaluate("document.querySelector('tbody:last-of-type .key').checkVisibility()")
    assert shown
    _click(page, "#direction")
    assert page.evaluate("document.getElementById('direction').textContent") == "best first"


def test_cases_are_filtered(page: Page) -> None:
    _type(page, "#find", "CASE00")
    assert len(_names(page)) == COUNT - 1
    _type(page, "#status", "warned")
    assert _names(page) == ["case001"]
    assert page.evaluate("document.getElementById('shown').textContent") == f"1 of {COUNT} cases"
    _type(page, "#find", "nothing")
    assert page.evaluate("document.getElementById('none').checkVisibility()")


def test_marks_are_kept_filtered_and_walked_by_keys(page: Page, path: Path) -> None:
    _click(page, "#close-all")
    for key in ("j", "f", "j", "p"):
        page.press(key)
    worst = _names(page)
    marked = page.evaluate("Array.from(document.querySelectorAll('tbody.case'), (b) => b.dataset.mark)")
    at = page.evaluate("document.querySelector('tbody.current .open').textContent")
    assert sorted(marked) == ["", "", "", "", "", "", "fail", "pass"]
    page.press("c")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.call("Input.insertText", text="Höhe von T12 prüfen")
    page.open(path)
    assert page.evaluate("document.getElementById('marked').textContent") == "1 passed, 1 failed, 6 open"
    _type(page, "#mark", "pass")
    assert _names(page) == [at]
    assert page.evaluate("document.querySelector('tbody:not([hidden]) .remark').textContent") == "Höhe von T12 prüfen"
    _type(page, "#mark", "all")
    assert _names(page) == worst


def test_marks_are_exported_and_loaded_again(page: Page, tmp_path: Path) -> None:
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    _click(page, "tbody.current button[data-mark=fail]")
    _type(page, "tbody.current textarea", '=HYPERLINK("x"), "quoted"\nsecond line')
    _click(page, "#export")
    for _ in range(100):
        files = list(tmp_path.glob("marks-*.csv"))
        if files:
            break
        time.sleep(0.1)
    text = files[0].read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["case"] for row in rows] == _names(page)
    failed = [row for row in rows if row["mark"] == "fail"]
    assert len(failed) == 1
    # A spreadsheet must not run a comment.
    assert failed[0]["comment"] == '\'=HYPERLINK("x"), "quoted"\nsecond line'
    page.evaluate("localStorage.clear()")
    page.evaluate("location.reload()")
    page.wait("document.getElementById('marked')?.textContent === '0 passed, 0 failed, 8 open'")
    page.wait("document.documentElement?.dataset.ready === 'yes'")
    node = page.call("DOM.querySelector", nodeId=page.call("DOM.getDocument")["root"]["nodeId"], selector="#file")
    page.call("DOM.setFileInputFiles", files=[str(files[0])], nodeId=node["nodeId"])
    page.wait("document.getElementById('marked').textContent === '0 passed, 1 failed, 7 open'")
    name = failed[0]["case"]
    remark = (
        "Array.from(document.querySelectorAll('tbody.case')).find((b) => b.querySelector('.open').textContent === "
        f"{name!r}).querySelector('.remark').textContent"
    )
    assert page.evaluate(remark) == '=HYPERLINK("x"), "quoted"\nsecond line'


def test_the_slider_moves_by_drag_and_by_keys(page: Page) -> None:
    _show_pictures(page)
    _click(page, "tbody.current [data-look=compare] button[value=slider]")
    page.wait("document.querySelector('tbody.current canvas.before').width > 0")
    # The earlier version lies two voxels higher: both canvases are full, and differ.
    assert _pixels(page, "tbody.current canvas.before") != _pixels(page, "tbody.current canvas.after")
    box = page.evaluate(
        "(() => { const b = document.querySelector('tbody.current .stack').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]; })()"
    )
    left, top, width, height = box
    page.drag((left + 0.5 * width, top + 0.3 * height), (left + 0.2 * width, top + 0.3 * height))
    cut = "getComputedStyle(document.documentElement).getPropertyValue('--cut').trim()"
    assert page.evaluate(cut) == "20%"
    page.evaluate("document.querySelector('tbody.current input[data-look=cut]').focus()")
    page.press("ArrowRight")
    assert page.evaluate(cut) == "21%"
    clip = "getComputedStyle(document.querySelector('tbody.current canvas.before')).clipPath"
    assert page.evaluate(clip) == "inset(0px 79% 0px 0px)"


def test_without_earlier_instances_classes_are_compared(browser: Page, tmp_path: Path) -> None:
    folders = make_cohort(tmp_path, 3)
    shutil.rmtree(folders["before"] / "instances")
    browser.open(report(**folders).path)
    _show_pictures(browser)
    _click(browser, "tbody.current [data-look=what] button[value=instances]")
    assert "L4" in browser.evaluate("document.querySelector('tbody.current .legend').textContent")
    _click(browser, "tbody.current [data-look=compare] button[value=slider]")
    browser.wait("document.querySelector('tbody.current canvas.before').width > 0")
    legend = browser.evaluate("document.querySelector('tbody.current [data-place=legend]').textContent")
    assert "no earlier instances" in legend
    assert "corpus" in legend


def test_the_name_of_a_vertebra_that_the_edge_cuts_stays_inside(browser: Page, tmp_path: Path) -> None:
    folders = make_cohort(tmp_path, 3)
    for folder, label in ((folders["out"], 10), (folders["out"] / "instances", 21)):
        for file in folder.glob("case*.nii.gz"):
            volume = read_volume(file)
            volume.array[6:18, 8:20, -1] = label
            write_volume(volume, file)
    browser.open(report(**folders).path)
    _show_pictures(browser)
    tops = browser.evaluate(
        "Array.from(document.querySelectorAll('tbody.current .names text')).filter((t) => t.textContent === 'L2')"
        ".map((t) => t.getBoundingClientRect().top - t.closest('.stack').getBoundingClientRect().top)"
    )
    assert tops
    assert min(tops) >= 0


def test_changes_have_their_own_colours(page: Page) -> None:
    _show_pictures(page)
    _click(page, "tbody.current [data-look=compare] button[value=changes]")
    page.wait("document.querySelector('tbody.current .stack').dataset.compare === 'changes'")
    time.sleep(0.3)
    found = _pixels(page, "tbody.current canvas.after")
    assert set(found) <= {"47,155,239", "243,156,31", "194,107,224"}
    assert len(found) >= 2


def test_labels_are_hidden_one_by_one_and_by_kind(page: Page) -> None:
    _show_pictures(page)
    before = _pixels(page, "tbody.current canvas.after")
    _click(page, "tbody.current .legend button[data-labels='10']")
    time.sleep(0.3)
    after = _pixels(page, "tbody.current canvas.after")
    assert set(before) - set(after)
    assert (
        page.evaluate("document.querySelector(\"tbody.current .legend button[data-labels='10']\").ariaPressed")
        == "false"
    )
    _click(page, "tbody.current [data-look=what] button[value=instances]")
    page.wait("document.querySelectorAll('tbody.current .legend').length === 2")
    time.sleep(0.3)
    both = _pixels(page, "tbody.current canvas.after")
    _click(page, "tbody.current .legend button.kind")
    time.sleep(0.3)
    assert 0 < sum(_pixels(page, "tbody.current canvas.after").values()) < sum(both.values())


def test_dark_and_light_follow_the_system_and_the_switch(page: Page, path: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(245, 246, 248)"
    page.prefer("dark")
    assert page.evaluate(paper) == "rgb(20, 23, 26)"
    _click(page, "button[data-theme-choice=light]")
    assert page.evaluate(paper) == "rgb(245, 246, 248)"
    page.open(path)
    assert page.evaluate(paper) == "rgb(245, 246, 248)"


@pytest.mark.parametrize("width", [360, 400, 768])
def test_no_page_wide_scrolling_on_narrow_screens(page: Page, width: int) -> None:
    page.resize(width, 800)
    _click(page, "#open-all")
    _click(page, "tbody.current [data-look=what] button[value=instances]")
    _click(page, "tbody.current [data-look=compare] button[value=slider]")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    # The rows of details span fewer columns once the browser has told the page its new size.
    page.wait(f"document.documentElement.scrollWidth <= {width}", 5)
    spans = page.evaluate("document.querySelector('tr.details td').getBoundingClientRect().width")
    assert spans >= page.evaluate("document.getElementById('table').getBoundingClientRect().width") - 4


def test_a_dot_of_a_plot_opens_its_case(page: Page) -> None:
    _click(page, "#close-all")
    page.evaluate("document.querySelector('.plots svg').scrollIntoView({block: 'center'})")
    x, y, number = page.evaluate(
        "(() => { const path = document.querySelector('.plots path[data-cases]');"
        "const [, x, y] = path.getAttribute('d').match(/M([\\d.]+) ([\\d.]+)/).map(Number);"
        "const at = new DOMPoint(x, y).matrixTransform(path.ownerSVGElement.getScreenCTM());"
        "return [at.x, at.y, Number(path.dataset.cases.split(' ')[0])]; })()"
    )
    page.drag((x, y), (x, y))
    assert page.evaluate("Number(document.querySelector('tbody.current').dataset.n)") == number
    assert page.evaluate("document.querySelectorAll('tr.details').length") == 1


def test_an_address_opens_its_case(page: Page, path: Path) -> None:
    page.open(path, "#case-5")
    assert page.evaluate("document.querySelector('tbody.current').id") == "case-5"


def test_it_prints(page: Page, tmp_path: Path) -> None:
    painted = "Array.from(document.querySelectorAll('canvas.after')).every((c) => c.width > 0)"
    _click(page, "#open-all")
    time.sleep(0.5)
    assert not page.evaluate(painted)
    # On paper everything that is open is seen at once.
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(painted)
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_it_works_where_the_browser_refuses_storage(browser: Page, path: Path) -> None:
    source = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('refused'); }});"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    browser.errors.clear()
    try:
        browser.open(path)
        _click(browser, "tbody.current button[data-mark=pass]")
        assert "export them" in browser.evaluate("document.getElementById('said').textContent")
        assert browser.evaluate("document.querySelector('tbody.current').dataset.mark") == "pass"
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    assert browser.errors == []


@pytest.mark.slow
def test_two_hundred_cases_stay_fluid(browser: Page, tmp_path: Path) -> None:
    browser.errors.clear()
    browser.resize(1280, 900)
    browser.open(report(**make_cohort(tmp_path, 200), max_size=30).path)
    assert browser.evaluate("document.querySelectorAll('*').length") < 10_000
    assert len(_names(browser)) == 200
    assert browser.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 5000
    timed = (
        "(() => { const t = performance.now(); document.querySelector(\"th[data-sort='name'] button\").click();"
        "document.body.offsetHeight; return performance.now() - t; })()"
    )
    # Generous: the machine may be busy. Measured alone it is a tenth of that.
    assert browser.evaluate(timed) < 1500
    for _ in range(10):
        browser.press("j")
    # Walking closes what was open: details exist for one case at a time.
    assert browser.evaluate("document.querySelectorAll('tr.details').length") <= 2
    assert browser.errors == []
