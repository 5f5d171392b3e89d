"""The rules of CONTRIBUTING.md that a machine can check. A rule that is a test does not rot."""

from __future__ import annotations

import argparse
import ast
import fnmatch
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import (
    LIBRARY,
    PACKAGE,
    ROOMS,
    ROOT,
    Command,
    commands,
    imported_modules,
    leaf_parsers,
    load,
    options,
    parameters,
    project_files,
    python_files,
    room_of,
    setup_cfg,
    tree,
)

from nnunet_spine_ext.cli.shell import resolve

MODULE_LINES = 400
FUNCTION_LINES = 80
CONSOLE = Path(PACKAGE, "cli", "shell.py")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def _public(node: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Yield public classes and functions, and those of public classes; nested functions are nobody's business."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from _public(child)


def _decorated_as(node: Function | ast.ClassDef, *names: str) -> bool:
    return any(ast.unparse(decorator).split(".")[-1] in names for decorator in node.decorator_list)


def _report(offenders: list[str]) -> None:
    assert not offenders, "\n" + "\n".join(offenders)


def test_modules_and_functions_stay_within_their_budgets() -> None:
    offenders = []
    for path in python_files(*LIBRARY):
        lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
        if lines > MODULE_LINES:
            offenders.append(f"{path}: {lines} lines, at most {MODULE_LINES}: split it by meaning")
        for node in _functions(path):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                offenders.append(f"{path}:{node.lineno} {node.name}: {length} lines, at most {FUNCTION_LINES}")
    _report(offenders)


def test_public_names_have_docstrings_and_type_hints() -> None:
    offenders = []
    for path in python_files(PACKAGE, "dataset_conversion"):
        if (ROOT / path).stat().st_size and ast.get_docstring(tree(path)) is None:
            offenders.append(f"{path}: no module docstring")
        for node in _public(tree(path)):
            where = f"{path}:{node.lineno} {node.name}"
            if ast.get_docstring(node) is None and not _decorated_as(node, "overload", "override", "setter"):
                offenders.append(f"{where}: no docstring")
            if isinstance(node, Function):
                offenders += [f"{where}: {what} has no type hint" for what in _without_hint(node)]
    _report(offenders)


def _without_hint(node: Function) -> list[str]:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    missing = [a.arg for a in every if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
    return missing if node.returns is not None else [*missing, "the result"]


def test_library_code_raises_and_logs_but_never_prints_or_asserts() -> None:
    offenders = []
    for path in python_files(*LIBRARY):
        for node in ast.walk(tree(path)):
            if (what := _forbidden(node, path)) is not None:
                offenders.append(f"{path}:{node.lineno}: {what}")  # type: ignore[attr-defined]
    _report(offenders)


def _forbidden(node: ast.AST, path: Path) -> str | None:
    match node:
        case ast.Assert():
            return "assert: raise a SpineExtError"
        case ast.ExceptHandler(type=None):
            return "bare except: name the exception"
        case ast.ImportFrom(names=[ast.alias(name="*")]):
            return "wildcard import"
        case ast.Call(func=ast.Name(id="print")):
            return "print: use a logger, or return a result with render()"
        case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr") if path != CONSOLE:
            return "sys.stdout/stderr: only cli/shell.py owns the console"
    return None


def test_only_one_function_writes_to_the_console() -> None:
    writers = {
        node.name for node in _functions(CONSOLE) if "sys.stdout" in ast.unparse(node) or ".write(" in ast.unparse(node)
    }
    assert writers == {"write_line"}


def test_rooms_import_only_rooms_before_them() -> None:
    offenders = []
    for path in python_files(PACKAGE):
        own = path.parts[1] if len(path.parts) > 2 else None
        for line, name in imported_modules(path):
            room = room_of(name)
            if own not in (None, "cli") and room in ROOMS and ROOMS.index(room) > ROOMS.index(str(own)):
                offenders.append(f"{path}:{line}: {own} comes before {room} and may not import it")
    _report(offenders)


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {path.parts[1] for path in python_files(PACKAGE) if len(path.parts) > 2}
    assert folders - {"cli"} <= set(ROOMS), "add the new room to the table in tests/house.py and to architecture.md"


def test_nobody_imports_trainers_and_only_commands_import_commands_and_converters() -> None:
    offenders = []
    for path in python_files(*LIBRARY):
        command = path.parts[:2] == (PACKAGE, "cli")
        for line, name in imported_modules(path):
            target = room_of(name) or name.split(".")[0]
            # The package itself is empty: importing it is how code learns where the folder is.
            if target == "trainers" and not name.endswith(".trainers"):
                offenders.append(f"{path}:{line}: nobody imports what is in trainers/")
            elif target in ("cli", "dataset_conversion") and not command and path.parts[0] != target:
                offenders.append(f"{path}:{line}: only commands import {target}")
    _report(offenders)


def test_trainer_files_hold_a_docstring_and_one_import() -> None:
    # nnU-Net imports these files under bare names and drops them again: a class defined here cannot be pickled,
    # and one file that fails to import hides every trainer after it.
    offenders = []
    for path in python_files("trainers"):
        body = tree(path).body
        docstring = ast.get_docstring(tree(path)) is not None
        if path.name == "__init__.py":
            if len(body) > int(docstring):
                offenders.append(f"{path}: must be empty")
            continue
        rest = body[1:] if docstring else body
        absolute = (
            len(rest) == 1
            and isinstance(rest[0], ast.ImportFrom)
            and rest[0].level == 0
            and (rest[0].module or "").startswith(f"{PACKAGE}.training")
            and [alias.name for alias in rest[0].names] == [path.stem]
        )
        if not (docstring and absolute):
            offenders.append(f"{path}: only a docstring and `from {PACKAGE}.training… import {path.stem}`")
        if not path.stem.startswith("nnUNetTrainerSpine"):
            offenders.append(f"{path}: trainers are called nnUNetTrainerSpine…")
    _report(offenders)


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_command_module_is_a_shell_over_a_public_function(command: Command) -> None:
    module = load(command)
    missing = [name for name in ("PROG", "FUNCTION", "build_parser", "main") if not hasattr(module, name)]
    assert not missing, f"{command.module} lacks {missing}"
    assert command.name == module.PROG
    assert command.module == f"{PACKAGE}.cli.{command.name.removeprefix('nnUNetv2_spine_')}"
    parsers = list(leaf_parsers(module.build_parser()))
    assert parsers
    for parser in parsers:
        _report(_differences(parser, str(parser.get_default("shell_function") or module.FUNCTION)))


def _differences(parser: argparse.ArgumentParser, target: str) -> list[str]:
    """Return how the options of a parser differ from the parameters of its function."""
    expected = parameters(resolve(target))
    # Several options may share a destination (--gzip, --no-gzip); then one of them carries the default.
    actions = {action.dest: action for action in options(parser)}
    offenders = [f"{parser.prog}: {dest} is no parameter of {target}" for dest in sorted(actions.keys() - expected)]
    offenders += [f"{parser.prog}: no option for {name} of {target}" for name in sorted(expected.keys() - actions)]
    for dest in sorted(actions.keys() & expected):
        action, parameter = actions[dest], expected[dest]
        required = action.required and action.nargs not in ("?", "*")
        if required and parameter.default is not inspect.Parameter.empty:
            offenders.append(f"{parser.prog}: {dest} is required here and optional in {target}")
        elif not required and _plain(parser, action) != _plain_value(parameter.default):
            found, wanted = _plain(parser, action), _plain_value(parameter.default)
            offenders.append(f"{parser.prog}: {dest} defaults to {found!r} here and to {wanted!r} in {target}")
    return offenders


def _plain(parser: argparse.ArgumentParser, action: argparse.Action) -> object:
    default = parser.get_default(action.dest)
    convert = action.type if isinstance(default, str) and callable(action.type) else lambda value: value
    return _plain_value(convert(default))


def _plain_value(value: object) -> object:
    """Return a default in a form where [1], (1,) and Path('a'), 'a' compare equal."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple | list) else value


def test_every_command_is_in_the_changelog_and_in_the_reference() -> None:
    offenders = []
    for page in ("CHANGELOG.md", "docs/reference/commands.md", "README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        offenders += [f"{page} does not mention {c.name}" for c in commands() if not re.search(rf"\b{c.name}\b", text)]
    _report(offenders)


def test_setup_cfg_lists_every_package_and_every_data_file() -> None:
    folders = {path.parent for path in python_files(*LIBRARY) if path.name == "__init__.py"}
    dotted = {".".join(folder.parts if folder.parts[0] == PACKAGE else (PACKAGE, *folder.parts)) for folder in folders}
    listed = set(setup_cfg()["options"]["packages"].split())
    assert listed == dotted
    patterns = setup_cfg()["options.package_data"][PACKAGE].split()
    inside = [path.relative_to(PACKAGE) for path in project_files() if path.parts[0] == PACKAGE]
    data = [str(path) for path in inside if path.suffix != ".py"]
    _report([f"{name}: not in package_data" for name in data if not any(fnmatch.fnmatch(name, p) for p in patterns)])


def test_no_file_names_a_private_place_or_leaves_a_reminder() -> None:
    # Written so that this file does not match itself; the entry script of CI alone knows where its data lies.
    patterns = {
        "the folder of one machine": r"(?<![\w.])[/](work|home|root)(?=[/\s\"'`]|$)",
        "a folder beside the checkout": r"(?<![\w-])share[d]/",
        "a numbered task": r"\bissue[s]? \d",
        "a reminder": r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    }
    offenders = []
    for path in project_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        allowed = {"a folder beside the checkout"} if path == Path(".ci/run") else set()
        for what in patterns.keys() - allowed:
            for match in re.finditer(patterns[what], text, flags=re.MULTILINE):
                offenders.append(f"{path}:{text.count(chr(10), 0, match.start()) + 1}: names {what}: {match[0]!r}")
    _report(offenders)
