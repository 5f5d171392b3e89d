"""The shell around every command: exit codes, messages, interrupts, closed pipes, JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.cli import shell
from nnunet_spine_ext.core import errors
from nnunet_spine_ext.core.summary import RunSummary


@pytest.fixture(autouse=True)
def _logger_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logger = logging.getLogger("nnunet_spine_ext")
    before = logger.handlers[:], logger.level, logger.propagate
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
    os.environ["TQDM_DISABLE"] = "1"


def parser(**options: Any) -> argparse.ArgumentParser:
    made = shell.make_parser("nnUNetv2_spine_x", "Do x.", "  nnUNetv2_spine_x -n 3")
    made.add_argument("-n", dest="n", type=int, default=1)
    shell.add_json_option(made)
    made.set_defaults(**options)
    return made


def run(function: Callable[..., Any] | str, *words: str) -> int:
    return shell.run(parser(), function, words)


@dataclass
class Result:
    exit_code: int = 0

    def render(self) -> str:
        return "all done"

    def to_dict(self) -> dict[str, Any]:
        return {"count": np.int64(3), "dice": np.float32(0.5), "list": np.arange(2), "path": Path("a")}


def test_function_gets_the_options_and_nothing_of_the_shell() -> None:
    seen: dict[str, Any] = {}
    assert run(lambda **options: seen.update(options), "-n", "3", "--json", "-v") == 0
    assert seen == {"n": 3}


def test_result_is_rendered_and_its_exit_code_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda n: Result(3)) == 3
    assert capsys.readouterr().out == "all done\n"
    assert run(lambda n: RunSummary(done=["a"])) == 0
    assert "1 done" in capsys.readouterr().out
    assert run(lambda n: None) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_prints_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    def function(n: int) -> Result:
        log = logging.getLogger("nnunet_spine_ext.room")
        log.info("hello")
        log.warning("careful")
        log.error("broken")
        return Result()

    assert run(function, "-q") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "ERROR broken\n"
    assert os.environ["TQDM_DISABLE"] == "1"
    assert run(function) == 0
    assert capsys.readouterr() == ("all done\n", "INFO hello\nWARNING careful\nERROR broken\n")


def test_verbose_shows_debug_messages(capsys: pytest.CaptureFixture[str]) -> None:
    def function(n: int) -> None:
        logging.getLogger("nnunet_spine_ext.room").debug("detail")

    run(function, "-v")
    assert "detail" in capsys.readouterr().err
    run(function)
    assert capsys.readouterr().err == ""


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda n: Result(3), "--json") == 3
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert err == ""
    assert content["count"] == 3
    assert content["dice"] == 0.5
    assert content["list"] == [0, 1]
    assert content["path"] == "a"


def test_json_is_printed_even_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    run(lambda n: Result(), "--json", "-q")
    assert json.loads(capsys.readouterr().out)["count"] == 3


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.SpineExtError, 1),
        (errors.UsageError, 2),
        (errors.CaseError, 3),
        (errors.NoInputError, 4),
        (errors.SetupError, 5),
    ],
)
def test_every_error_class_has_its_exit_code_and_is_told_in_full(
    cls: type[errors.SpineExtError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def function(n: int) -> None:
        raise cls("E-X", file="a b/c.nii", found="7 of 3", expected="3", fix="count again")

    assert run(function) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    for part in ("nnUNetv2_spine_x: E-X", "a b/c.nii", "7 of 3", "count again"):
        assert part in err
    assert run(function, "--json") == code
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content["exit_code"] == code
    assert content["error"]["code"] == "E-X"
    assert content["error"]["fix"] == "count again"


def test_errors_while_rendering_count_too(capsys: pytest.CaptureFixture[str]) -> None:
    class Late(Result):
        def render(self) -> str:
            raise errors.CaseError("E-X", found="x", expected="y", fix="z")

    assert run(lambda n: Late()) == 3
    assert "E-X" in capsys.readouterr().err


def test_unexpected_exceptions_are_internal_errors_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def function(n: int) -> None:
        raise ZeroDivisionError("boom")

    for words in ((), ("-q",)):
        assert run(function, *words) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "please report" in err
        assert "Traceback" in err
        assert "ZeroDivisionError: boom" in err


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({}, "run it again\n"),
        ({"overwrite": False}, "run it again, with --overwrite where results are in its way\n"),
        ({"resume": False}, "run it again with --resume\n"),
        ({"resume": True, "overwrite": True}, "run it again with --resume\n"),
    ],
)
def test_interrupt(options: dict[str, bool], again: str, capsys: pytest.CaptureFixture[str]) -> None:
    def function(n: int, **_: bool) -> None:
        raise KeyboardInterrupt

    assert shell.run(parser(**options), function, []) == 130
    err = capsys.readouterr().err
    assert err == f"nnUNetv2_spine_x: interrupted; every file is whole; {again}"


def test_sigterm_unwinds_and_its_handler_is_restored(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def function(n: int) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run(function) == 130
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) == before
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--no-such",), ("-n", "three"), ("positional",)])
def test_wrong_usage_never_calls_the_function(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda n: pytest.fail("called"), *words)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "usage:" in err
    assert "nnUNetv2_spine_x:" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--instanes"], "unknown option --instanes: did you mean --instances?"),
        # With -i this would be -i and the value "nstances".
        (["-instances"], "unknown option -instances: did you mean --instances?"),
        (["-instanes", "--zzz"], "unknown option -instanes: did you mean --instances?; unknown option --zzz"),
        (["-i", "a", "-devise", "cpu"], "unknown option -devise: did you mean -device?"),
        (["-i", "a", "--devise=cpu"], "unknown option --devise: did you mean --device?"),
        (["-i", "a", "--tta", "miror"], "'miror' is none of its values; did you mean 'mirror'? known: none, mirror"),
        (["-i", "a", "stray"], "nothing takes 'stray'"),
        (["part", "-i", "a", "--deph", "3"], "x part: unknown option --deph: did you mean --depth?"),
        (["prat", "-i", "a"], "did you mean 'part'?"),
    ],
)
def test_an_unknown_word_comes_with_the_nearest_known_one(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = shell.make_parser("x", "Do x.", "  x")
    target = made
    if words[0].startswith("p"):
        target = made.add_subparsers(required=True).add_parser("part")
        target.add_argument("--depth")
    target.add_argument("-i", required=True)
    target.add_argument("-device", "--device")
    target.add_argument("--instances", action="store_true")
    target.add_argument("--tta", choices=("none", "mirror"))
    with pytest.raises(SystemExit) as stop:
        made.parse_args(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["-ia.nii.gz", "-vq"], ["-i", "a", "-dev", "cpu"], ["-i", "a", "--inst"], ["-i", "-3"], ["-i", "-a b"]]
)
def test_what_argparse_takes_is_not_refused(words: list[str]) -> None:
    made = shell.make_parser("x", "Do x.", "  x")
    made.add_argument("-i", required=True)
    made.add_argument("-device", "--device")
    made.add_argument("--instances", action="store_true")
    assert made.parse_args(words).i


def test_help_lists_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda n: None, "--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "examples:\n  nnUNetv2_spine_x -n 3" in out
    for number in (0, 1, 2, 3, 4, 5, 130):
        assert f" {number} " in out


def test_sub_commands_choose_their_function() -> None:
    seen: list[int] = []
    assert shell.run(parser(shell_function=lambda n: seen.append(n)), "json:dumps", ["-n", "5"]) == 0
    assert seen == [5]


def test_resolve() -> None:
    assert shell.resolve("json:dumps") is json.dumps


# What follows needs a process of its own. `BODY` is a function; the rest is what a command module does.
COMMAND = """
import sys
from nnunet_spine_ext.cli import shell
def function():
    {body}
sys.exit(shell.run(shell.make_parser("x", "Do x.", "  x"), function, {words}))
"""


def start(body: str, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    code = COMMAND.format(body=body.replace("\n", "\n    "), words=list(words))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


LONG = "class R:\n    exit_code = 3\n    def render(self): return 'line\\n' * 100_000\nreturn R()"


def test_closed_pipe_is_no_error() -> None:
    process = start(LONG)
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        message = process.stderr.read()
        # What happened to the cases is still told.
        assert process.wait(30) == 3
    assert message == b""


def test_console_that_does_not_know_a_letter() -> None:
    body = "class R:\n    def render(self): return 'a × b'\nreturn R()"
    process = start(body, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"a \\xd7 b\n", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_command_with_130(number: signal.Signals) -> None:
    # A signal between the last look at flags and a sleep is seen after the sleep: many short ones.
    process = start("import time; print('ready', flush=True)\nfor _ in range(600): time.sleep(0.05)")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err


def test_shell_and_errors_import_nothing_heavy() -> None:
    body = "print(*[m for m in ('torch', 'numpy', 'scipy', 'nibabel', 'nnunetv2', 'matplotlib') if m in sys.modules])"
    out, err = start(body).communicate(timeout=30)
    assert (out.strip(), err) == (b"", b"")
