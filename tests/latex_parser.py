"""A strict reader of the LaTeX that we write: what it lets through compiles, as far as its rules go.

It knows the few commands and environments that our tables use, and refuses everything else: an unknown command, an
unescaped special character, a group, formula or environment that is not closed or closed in the wrong order, a row
with another number of cells than the table has columns, a name of a label that TeX cannot build, an empty line in an
argument.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Command to the number of its arguments in braces.
TEXT = {
    "textbackslash": 0, "textasciitilde": 0, "textasciicircum": 0, "textless": 0, "textgreater": 0, "textbar": 0,
    "textit": 1, "textbf": 1, "caption": 1, "label": 1, "centering": 0, "toprule": 0, "midrule": 0, "bottomrule": 0,
}  # fmt: skip
MATH = {
    "uparrow": 0, "downarrow": 0, "rightarrow": 0, "pm": 0, "geq": 0, "leq": 0, "dagger": 0, "mathbf": 1, "times": 0,
}  # fmt: skip
ESCAPED = "&%$#_{}"
RULES = ("toprule", "midrule", "bottomrule")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|%[^\n]*\n?|\n[ \t]*\n|.", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9:.-]+")
_COLUMNS = re.compile(r"[lcr]+")


class LatexError(ValueError):
    """What TeX would stop at, or set otherwise than it was meant."""


@dataclass
class Tabular:
    """A table as it was read: columns and the cells of its rows."""

    columns: str
    rows: list[list[str]] = field(default_factory=list)


def parse(text: str) -> list[Tabular]:
    """Read a file of tables; raises LatexError for the first fault."""
    return _Reader(text).document()


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens = [piece for piece in _TOKEN.findall(text) if not piece.startswith("%")]
        self.place = 0
        self.found: list[Tabular] = []

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        piece = self.peek()
        if not piece:
            raise self.wrong("the end of the file")
        self.place += 1
        return piece

    def wrong(self, what: str) -> LatexError:
        return LatexError(f"{what} after {''.join(self.tokens[max(0, self.place - 30) : self.place])!r}")

    def blank(self) -> None:
        while self.peek() and not self.peek().strip():
            self.place += 1

    def raw_group(self) -> str:
        """Read an argument that is no text: a name."""
        if self.take() != "{":
            raise self.wrong("an argument without braces")
        content = ""
        while self.peek() != "}":
            content += self.take()
        self.take()
        return content

    def document(self) -> list[Tabular]:
        while True:
            self.blank()
            if not self.peek():
                return self.found
            if self.take() != "\\begin":
                raise self.wrong("text outside of a table")
            if self.raw_group() != "table":
                raise self.wrong("another environment than a table")
            self.table()

    def table(self) -> None:
        seen: list[str] = []
        tabular = False
        while True:
            self.blank()
            piece = self.take()
            if piece == "\\end":
                break
            if piece == "\\begin":
                if self.raw_group() != "tabular":
                    raise self.wrong("another environment in a table")
                self.tabular()
                tabular = True
            elif piece == "\\label":
                name = self.raw_group()
                if not _NAME.fullmatch(name):
                    raise self.wrong(f"a label that TeX cannot build, {name!r}")
                if "\\caption" not in seen:
                    raise self.wrong("a label before its caption")
            elif piece == "\\caption":
                self.group("\\caption")
            elif piece != "\\centering":
                raise self.wrong(f"{piece!r} in a table")
            seen.append(piece)
        if self.raw_group() != "table" or not tabular or not {"\\caption", "\\label"} <= set(seen):
            raise self.wrong("a table that is not closed, or lacks its tabular, caption or label")

    def tabular(self) -> None:
        columns = self.raw_group()
        if not _COLUMNS.fullmatch(columns):
            raise self.wrong(f"columns {columns!r}")
        table, row, cell, rules = Tabular(columns), [], "", []  # type: Tabular, list[str], str, list[str]
        while True:
            piece = self.peek()
            if piece == "\\end":
                self.take()
                break
            if not row and not cell.strip() and piece[1:] in RULES:
                rules.append(self.take()[1:])
                cell = ""
                self.blank()
                if self.peek() == "[":
                    raise self.wrong("a row that begins with '[', which the rule takes for its argument")
            elif piece == "&":
                self.take()
                row.append(cell.strip())
                cell = ""
            elif piece == "\\\\":
                self.take()
                row.append(cell.strip())
                if len(row) != len(columns):
                    raise self.wrong(f"{len(row)} cells in a table of {len(columns)} columns")
                table.rows.append(row)
                row, cell = [], ""
                self.blank()
                if self.peek() in ("[", "*"):
                    raise self.wrong(f"a row that begins with {self.peek()!r}, which \\\\ takes for its argument")
            else:
                cell += self.text("a cell")
        if self.raw_group() != "tabular" or row or cell.strip():
            raise self.wrong("a tabular that is not closed, or a row that does not end")
        if rules != list(RULES) or len(table.rows) < 2:
            raise self.wrong(f"rules {rules} around {len(table.rows)} rows")
        self.found.append(table)

    def group(self, what: str) -> str:
        """Read an argument of text."""
        if self.take() != "{":
            raise self.wrong(f"{what} without braces")
        content = ""
        while self.peek() != "}":
            content += self.text(what)
        self.take()
        return content

    def text(self, where: str) -> str:
        """Read one thing of text: a letter, a command with its arguments, a group, a formula."""
        piece = self.take()
        if piece == "{":
            self.place -= 1
            return self.group(where)
        if piece == "$":
            return self.formula()
        if piece.startswith("\\"):
            return self.command(piece, TEXT, where)
        if piece.startswith("\n") and piece.count("\n") > 1:
            raise self.wrong(f"an empty line in {where}")
        if piece in "}#&_^~<>|%" or (piece < " " and piece != "\n"):
            raise self.wrong(f"a bare {piece!r} in {where}")
        return piece

    def formula(self) -> str:
        content = ""
        while self.peek() != "$":
            content += self.math()
        self.take()
        if not content.strip():
            raise self.wrong("an empty formula")
        return f"${content}$"

    def math(self) -> str:
        piece = self.take()
        if piece == "{":
            return self.braced()
        if piece == "^":
            if self.peek() != "{":
                raise self.wrong("an exponent without braces")
            self.take()
            return "^" + self.braced()
        if piece.startswith("\\"):
            return self.command(piece, MATH, "a formula")
        if not (piece.isascii() and (piece.isalnum() or piece in " .,+-=<>*()[]/")):
            raise self.wrong(f"a bare {piece!r} in a formula")
        return piece

    def braced(self) -> str:
        content = ""
        while self.peek() != "}":
            content += self.math()
        self.take()
        return content

    def command(self, piece: str, known: dict[str, int], where: str) -> str:
        name = piece[1:]
        if len(name) == 1 and name in ESCAPED and known is TEXT:
            return piece
        if name not in known or (name in ("caption", "label", "centering", *RULES) and where == "a cell"):
            raise self.wrong(f"the unknown command {piece!r} in {where}")
        if not known[name]:
            return piece
        if self.peek() != "{":
            raise self.wrong(f"{piece} without its argument")
        if known is TEXT:
            return piece + self.group(piece)
        self.take()
        return piece + self.braced()
