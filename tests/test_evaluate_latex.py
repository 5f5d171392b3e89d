"""LaTeX tables: what is written is read by a strict parser, whatever classes, folders and facts are called."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from latex_parser import ESCAPED, LatexError, parse
from spine_masks import Cohort

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.evaluate import latex
from nnunet_spine_ext.evaluate.compare import compare
from nnunet_spine_ext.evaluate.publication import tables
from nnunet_spine_ext.evaluate.run import evaluate

NASTY = r"[a_b] & 50% #1 {x} ~^ \n <y> $z$ |q|"
GOOD = latex.table(["", "a", "b"], [["x", "1", "2"], ["y", "$3$", "--"]], "Caption.", "name")


def test_a_good_table_is_read_as_it_is_meant() -> None:
    (table,) = parse(latex.HEAD + GOOD)
    assert (table.columns, table.rows) == ("lcc", [["", "a", "b"], ["x", "1", "2"], ["y", "$3$", "--"]])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r"1 & 2", r"1"), (r"1 & 2", r"1 & 2 & 3"), (r"\end{tabular}", ""), (r"\end{table}", ""),
        ("Caption.", "50 % off"),
        ("Caption.", "a_b"), ("Caption.", "a & b"), ("Caption.", "{a"), ("Caption.", "a}"), ("Caption.", "a $x"),
        ("Caption.", "a < b"), ("Caption.", "two\n\nparagraphs"), ("Caption.", r"\foo"), ("Caption.", "#1"),
        ("tab:name", r"tab:a\_b"), ("tab:name", "tab:a b"), ("x & 1", "[x] & 1"), ("y & ", "[y & "), ("y & ", "*y & "),
        ("$3$", r"$\textit{a}$"), ("$3$", "$3^2$"), ("$3$", "$$"), (r"\toprule", ""), ("{lcc}", "{lc|c}"),
        (r"\\" + "\n\\bottomrule", "\n\\bottomrule"), (r"\caption", r"\begin{center}\caption"),
    ],
)  # fmt: skip
def test_the_parser_is_strict(before: str, after: str) -> None:
    assert before in GOOD
    with pytest.raises(LatexError):
        parse(GOOD.replace(before, after, 1))


def test_every_pair_of_special_characters_is_made_harmless() -> None:
    special = [*ESCAPED, "\\", "~", "^", "<", ">", "|", "[", "]", "*", "\n", "-", "'", "`", '"']
    for pair in itertools.product(special, repeat=2):
        text = latex.escape("".join(pair))
        cell = f"a{text}"
        # In the first cell of a row, in a later one, in a head and in a caption.
        written = latex.table(["", cell], [[text, "1"], [text, cell]], f"Of {text}.", "".join(pair) + "x")
        (table,) = parse(written)
        assert len(table.rows) == 3


def test_heads_are_guarded_and_labels_stay_apart() -> None:
    written = latex.table(["[x]", "a"], [["y", "1"]], "Caption.", "name")
    assert "\\toprule\n{}[x] & a" in written
    parse(written)
    names = ["a_b", "a b", "a-b", "a\tb"]
    labels = [latex.table(["", "a"], [["y", "1"]], "C.", name).split("\\label{tab:")[1].split("}")[0] for name in names]
    assert len(set(labels)) == len(names)
    assert labels[2] == "a-b"
    assert all(label.startswith("a-b") for label in labels)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Return cases with two folders of predictions; classes, facts and structures have names that TeX does not like."""
    made = Cohort(tmp_path, 4)
    rows = {case: {"subject": case, "scanner_model": f"{NASTY} {k % 2}"} for k, case in enumerate(made.cases)}
    write_json(tmp_path / "cases.json", {"cases": rows})
    write_json(tmp_path / "s.json", {NASTY: ["arcus"], "cord": ["cord"]})
    made.predict("a", [0, 1, 0, 1])
    made.predict("b", [1, 2, 1, 3])
    return made


def test_tables_of_the_paper(cohort: Cohort) -> None:
    folders, structures = [cohort.base / "a", cohort.base / "b"], cohort.base / "s.json"
    for out, options in ((cohort.out, {}), (cohort.base / "own", {"structures": structures})):
        tables(folders, out, ref=cohort.ref, names=(NASTY, "50%_b"), **options)
        for number in (2, 3, 5):
            text = (out / f"table{number}.tex").read_text(encoding="utf-8")
            if "\\begin" in text:
                assert all(len(table.rows[0]) >= 3 for table in parse(text))
    assert "textless" in (cohort.out / "table2.tex").read_text(encoding="utf-8")


def test_tables_of_an_evaluation_and_of_a_comparison(cohort: Cohort) -> None:
    for spread in ("mean", "median"):
        folders = []
        for name in ("a", "b"):
            folders.append(cohort.base / f"{spread}-{name}")
            options: Any = {"metrics": ("dice", "hd95"), "by": ("scanner_model",), "latex": spread}
            evaluate(cohort.ref, cohort.base / name, folders[-1], cases=cohort.base / "cases.json", **options)
        assert len(parse((folders[0] / "summary.tex").read_text(encoding="utf-8"))) >= 2
        out = cohort.base / f"{spread}-comparison"
        compare(folders[0], folders[1:], out, names=(NASTY, "b"), by="scanner_model", latex=spread)
        assert parse((out / "comparison.tex").read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_tex_itself_compiles_them(cohort: Cohort) -> None:
    tables([cohort.base / "a", cohort.base / "b"], cohort.out, ref=cohort.ref, names=(NASTY, "b"))
    text = "".join((cohort.out / f"table{number}.tex").read_text(encoding="utf-8") for number in (2, 3, 5))
    place = cohort.base / "all.tex"
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
    place.write_text(f"{head}\n{text}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", place.name]
    assert subprocess.run(command, cwd=cohort.base, check=False, capture_output=True).returncode == 0
