"""What all commands share: parse, call one public function, render, exit with the truth.

A command module has `PROG`, `FUNCTION` ("package.module:function"), `build_parser()` and `main()`. The parser's
destinations are the function's keyword parameters; destinations that start with `shell_` belong to this module.
Nothing here or in a command module imports torch, nnU-Net or an image library before the arguments are parsed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from nnunet_spine_ext.core.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, SpineExtError

EXIT_CODES = """exit codes:
  0 all fine   1 internal error   2 wrong usage   3 some cases failed, the rest is written
  4 no usable input   5 environment or model problem   130 interrupted, resume is safe"""


class _Parser(argparse.ArgumentParser):
    """argparse with our exit code for wrong usage made explicit."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def make_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser with the examples and the exit codes below the options, and the common options."""
    epilog = f"examples:\n{examples.rstrip()}\n\n{EXIT_CODES}"
    parser = _Parser(
        prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    return parser


def add_common_options(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add the options that every command has; `again` to the parser of a sub-command, without undoing the first."""
    default: Any = argparse.SUPPRESS if again else False
    for flags, dest, text in (
        (("-v", "--verbose"), "shell_verbose", "more messages"),
        (("-q", "--quiet"), "shell_quiet", "errors only, no progress bars"),
    ):
        parser.add_argument(*flags, dest=dest, action="store_true", default=default, help=text)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json` for commands whose result has `to_dict`."""
    parser.add_argument("--json", dest="shell_json", action="store_true", help="print the result as JSON")


def write_line(text: str, *, error: bool = False) -> None:
    """Write to the console; a closed pipe (`| head`) is no error, nor is a letter that the console does not know."""
    stream = sys.stderr if error else sys.stdout
    known = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(known, "backslashreplace").decode(known)
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(parser: argparse.ArgumentParser, function: str | Callable[..., Any], argv: Sequence[str] | None = None) -> int:
    """Parse, call, render; return the exit code. `function` may be chosen by a sub-command as `shell_function`."""
    namespace = vars(parser.parse_args(argv))
    shell = {key: namespace.pop(key) for key in list(namespace) if key.startswith("shell_")}
    _configure_logging(shell)
    previous = _terminate_like_interrupt()
    try:
        chosen = shell.get("shell_function", function)
        result = (resolve(chosen) if isinstance(chosen, str) else chosen)(**namespace)
        return _render_result(result, as_json=bool(shell.get("shell_json")), quiet=bool(shell.get("shell_quiet")))
    except SpineExtError as error:
        _render_error(parser.prog, error, as_json=bool(shell.get("shell_json")))
        return error.exit_code
    except KeyboardInterrupt:
        write_line(
            f"{parser.prog}: interrupted; what is finished is complete, --resume or a new run continues", error=True
        )
        return EXIT_INTERRUPTED
    except Exception:
        logging.getLogger(__name__).exception("internal error; please report it with the text above")
        return EXIT_INTERNAL
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def resolve(function: str) -> Callable[..., Any]:
    """Import ``package.module:function``."""
    module, _, name = function.partition(":")
    target: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return target


def _configure_logging(shell: dict[str, Any]) -> None:
    level = logging.INFO
    if shell.get("shell_verbose"):
        level = logging.DEBUG
    if shell.get("shell_quiet"):
        level = logging.ERROR
        os.environ["TQDM_DISABLE"] = "1"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("nnunet_spine_ext")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def _terminate_like_interrupt() -> Any:
    """Let SIGTERM (Slurm, docker stop) unwind like Ctrl-C; None outside the main thread."""
    try:
        return signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        return None


def _render_error(prog: str, error: SpineExtError, *, as_json: bool) -> None:
    if as_json:
        write_line(json.dumps({"error": error.problem().to_dict(), "exit_code": error.exit_code}, indent=2))
        return
    lines = [f"{prog}: {error.code}"]
    rows = (("file", error.file), ("found", error.found), ("expected", error.expected), ("do", error.fix))
    lines += [f"  {name:9}{text}" for name, text in rows if text]
    write_line("\n".join(lines), error=True)


def _plain(value: Any) -> Any:
    # numpy's numbers and arrays have `tolist`; without it a count would become text.
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _render_result(result: Any, *, as_json: bool, quiet: bool) -> int:
    if as_json and hasattr(result, "to_dict"):
        write_line(json.dumps(result.to_dict(), indent=2, default=_plain))
    elif quiet and getattr(result, "exit_code", EXIT_OK) != EXIT_OK and hasattr(result, "render"):
        write_line(result.render(), error=True)
    elif not quiet and hasattr(result, "render"):
        write_line(result.render())
    return int(getattr(result, "exit_code", EXIT_OK))
