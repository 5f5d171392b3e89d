"""`--help` answers without torch, nnU-Net or an image library, and shows examples and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from house import Command, commands, leaf_parsers, load

HEAVY = ("torch", "nnunetv2", "scipy", "matplotlib", "nibabel", "SimpleITK", "pandas", "skimage")

# Runs in a fresh interpreter: asks for help, then tells what was imported on the way.
PROBE = """
import importlib, io, json, sys, contextlib
text = io.StringIO()
with contextlib.redirect_stdout(text):
    try:
        code = importlib.import_module(sys.argv[1]).main(json.loads(sys.argv[2]))
    except SystemExit as stop:
        code = stop.code
print(json.dumps({"code": code, "help": text.getvalue(), "modules": sorted(sys.modules)}))
"""


def _sub_commands() -> Iterator[tuple[Command, list[str]]]:
    for command in commands():
        yield command, []
    for command in commands():
        try:
            prog = load(command).build_parser().prog
            for parser in leaf_parsers(load(command).build_parser()):
                if parser.prog != prog:
                    yield command, parser.prog.removeprefix(prog).split()
        except (ImportError, AttributeError):
            continue  # test_house_rules.py names what is missing


def _name(value: Command | list[str]) -> str:
    return value.name if isinstance(value, Command) else "-".join(value) or "all"


@pytest.mark.parametrize(("command", "words"), list(_sub_commands()), ids=_name)
def test_help_is_light_and_has_examples(command: Command, words: list[str]) -> None:
    start = time.perf_counter()
    call = [sys.executable, "-c", PROBE, command.module, json.dumps([*words, "--help"])]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{command.name} {' '.join(words)}: {seconds:.2f} s, {len(answer['modules'])} modules\n")
    assert answer["code"] == 0
    assert "examples:" in answer["help"]
    assert "exit codes:" in answer["help"]
    assert command.name in answer["help"].partition("examples:")[2]
    heavy = [name for name in HEAVY if name in answer["modules"]]
    assert not heavy, f"{command.module} imports {heavy} before it knows the options"


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_unknown_option_is_a_usage_error(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load(command).main(["--no-such-option"])
    assert stop.value.code == 2
    assert command.name in capsys.readouterr().err
