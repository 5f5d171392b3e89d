"""What the house-rule tests know about the tree: its Python files, its commands, its rooms."""

from __future__ import annotations

import argparse
import ast
import configparser
import importlib
import inspect
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "nnunet_spine_ext"
LIBRARY = (PACKAGE, "trainers", "dataset_conversion")

# A room imports itself and the rooms before it.
ROOMS = (
    "core", "check", "render", "measure", "augment", "phantom", "losses", "networks", "soft", "instances", "numbering",
    "evaluate", "report", "harmonize", "inference", "training", "study",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """One console script of setup.cfg."""

    name: str
    module: str


@cache
def setup_cfg() -> configparser.ConfigParser:
    """Return the parsed setup.cfg."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@cache
def commands() -> tuple[Command, ...]:
    """Return the commands that setup.cfg installs."""
    rows = setup_cfg()["options.entry_points"]["console_scripts"].split("\n")
    pairs = [[part.strip() for part in row.split("=")] for row in rows if row.strip()]
    return tuple(Command(name, target.partition(":")[0]) for name, target in pairs)


def load(command: Command) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(command.module)


def leaf_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers that run something: the sub-commands of a command that has any, else the parser itself."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        # An alias maps a second name to the same parser.
        for choice in dict.fromkeys(action.choices.values()):
            yield from leaf_parsers(choice)


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the actions that carry a value to the function."""
    passive = (argparse._HelpAction, argparse._VersionAction, argparse._SubParsersAction)
    return [a for a in parser._actions if not isinstance(a, passive) and not a.dest.startswith("shell_")]


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Return the Python files of top-level folders, relative to the checkout."""
    found = [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in p.parts]
    return tuple(path.relative_to(ROOT) for path in found)


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@cache
def project_files() -> tuple[Path, ...]:
    """Return every file that belongs to the project: what git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return tuple(Path(name) for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file())


def room_of(module: str) -> str | None:
    """Return the room of a dotted name inside the package; None for other packages and the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import of a file, function bodies and relative imports included."""
    package = list(path.with_suffix("").parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import room` names the room in the alias.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def parameters(function: object) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable by name."""
    return dict(inspect.signature(function).parameters)  # type: ignore[arg-type]
