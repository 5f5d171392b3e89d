"""The documentation keeps up: links lead somewhere, pages can be reached, command lines parse."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from house import ROOT, commands, load, project_files

PAGES = tuple(path for path in project_files() if path.suffix == ".md")
BY_NAME = {command.name: command for command in commands()}

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


@cache
def _text(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield (link, file relative to the checkout, anchor) of every link and image that stays inside the project."""
    prose = _FENCE.sub("", _text(page))
    for link in (*_LINK.findall(prose), *_IMAGE.findall(prose)):
        if not re.match(r"[a-z]+:", link):
            name, _, anchor = link.partition("#")
            target = (ROOT / page.parent / name).resolve() if name else ROOT / page
            yield link, target, anchor


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link, target, anchor in _links(page):
        if not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in _anchors(target):
            broken.append(f"{link}: no such heading")
    assert not broken, f"{page}:\n" + "\n".join(broken)


def test_every_page_of_the_docs_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [Path("docs/index.md")]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            inside = (target for _, target, _ in _links(page) if target.suffix == ".md" and target.exists())
            waiting += [target.relative_to(ROOT) for target in inside]
    lost = sorted(str(page) for page in PAGES if page.parts[0] == "docs" and page not in seen)
    assert not lost, f"not linked from docs/index.md: {lost}"


def _command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of every line in a code block that starts with one of nnU-Net's or our commands."""
    for block in _FENCE.findall(_text(page)):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("nnUNetv2_") and "…" not in line and "..." not in line:
                yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_command_lines_parse(page: Path) -> None:
    stock = {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}
    broken = []
    for name, *words in _command_lines(page):
        # What follows a pipe, a redirection or && belongs to another command.
        words = words[: next((k for k, word in enumerate(words) if word[0] in "|><&;"), len(words))]
        if name in BY_NAME:
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
                try:
                    load(BY_NAME[name]).build_parser().parse_args(words)
                except SystemExit as stop:
                    if stop.code:
                        broken.append(f"{shlex.join([name, *words])}: {errors.getvalue().splitlines()[-1]}")
        elif name not in stock:
            broken.append(f"{name}: no such command")
    assert not broken, f"{page}:\n" + "\n".join(broken)


def test_command_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_commands", ROOT / "docs" / "generate_commands.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    current = generator.render() == generator.PAGE.read_text(encoding="utf-8")
    assert current, "docs/reference/commands.md is older than the commands: run `make docs`"
