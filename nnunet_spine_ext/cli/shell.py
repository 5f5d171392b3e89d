"""What all commands share: parse, call one public function, render, exit with the truth.

A command module has `PROG`, `FUNCTION` ("package.module:function"), `build_parser()` and `main()`. The parser's
destinations are the function's keyword parameters; destinations that start with `shell_` belong to this module.
Nothing here or in a command module imports torch, nnU-Net or an image library before the arguments are parsed.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NoReturn

from nnunet_spine_ext.core.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, SpineExtError

EXIT_CODES = """exit codes:
  0 all fine   1 internal error   2 wrong usage   3 some cases failed, the rest is written
  4 no usable input   5 environment or model problem   130 interrupted, every file is whole"""


class _Parser(argparse.ArgumentParser):
    """argparse with our exit code for wrong usage, and the nearest known word beside an unknown one."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse; refuse unknown options before missing ones are complained of, and words that nothing takes."""
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        if unknown := [option for option in self._options_in(words) if not self._takes(option)]:
            hints = [f": did you mean {near}?" if (near := self._nearest(option)) else "" for option in unknown]
            self.error("; ".join(f"unknown option {o}{hint}" for o, hint in zip(unknown, hints, strict=True)))
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"nothing takes {' '.join(rest)!r}")
        return parsed, rest

    def _options_in(self, words: list[str]) -> Iterator[str]:
        """Yield what argparse takes for options; those behind a sub-command, misspelt or not, are its own business."""
        nested = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)
        for word in words:
            if word == "--" or (nested and word[:1] != "-"):
                return
            if len(word) > 1 and word[0] == "-" and " " not in word and not word[1].isdigit():
                yield word.partition("=")[0]

    def _takes(self, option: str) -> bool:
        """Whether argparse finds an option: spelt out, abbreviated, or one letter with its value glued on."""
        known = self._option_string_actions
        if option in known or option.startswith("--") or option[:2] not in known:
            return any(name.startswith(option) for name in known)
        # -instances would be -i with the value "nstances".
        return self._nearest(option).lstrip("-")[:1] != option[1]

    def _nearest(self, option: str) -> str:
        """Return the known option of several letters that is most like another one, nothing if none is."""
        # Options that differ in dashes only (-device, --device) are one word, spelt as the user began it.
        dashes = len(option) - len(option.lstrip("-"))
        words: dict[str, str] = {}
        for known in self._option_string_actions:
            word = known.lstrip("-")
            if len(word) > 2 and (word not in words or len(known) - len(word) == dashes):
                words[word] = known
        near = difflib.get_close_matches(option.lstrip("-"), words, n=1)
        return words[near[0]] if near else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise argparse.ArgumentError(action, f"{str(value)!r} is none of its values; {hint}known: {', '.join(choices)}")


def make_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser with the examples and the exit codes below the options, and the common options."""
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=_epilog(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_options(parser)
    return parser


def add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: str,
    *,
    short: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Return the parser of a sub-command that calls `function`; `short` is its line in the help of the command."""
    parser = actions.add_parser(
        name,
        help=short,
        description=description,
        epilog=_epilog(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(shell_function=function)
    return parser


def _epilog(examples: str) -> str:
    return f"examples:\n{examples.rstrip()}\n\n{EXIT_CODES}"


def add_settings_option(parser: argparse._ActionsContainer, text: str) -> None:
    """Add `--set`, the ``key=value`` of parameter `assignments`."""
    parser.add_argument(
        "--set", dest="assignments", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=text
    )


def add_device_option(parser: argparse._ActionsContainer) -> None:
    """Add `-device`, by default the best there is."""
    parser.add_argument(
        "-device", "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (default: auto)"
    )


def add_common_options(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add the options that every command has; `again` to the parser of a sub-command, without undoing the first."""
    default: Any = argparse.SUPPRESS if again else False
    for flags, dest, text in (
        (("-v", "--verbose"), "shell_verbose", "more messages"),
        (("-q", "--quiet"), "shell_quiet", "errors only, no progress bars"),
    ):
        parser.add_argument(*flags, dest=dest, action="store_true", default=default, help=text)


class Once(argparse.Action):
    """An option with one value that may not be given twice: the last one would win without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store the value, or end the command."""
        given = getattr(namespace, self.dest)
        if given is not None:
            parser.error(f"argument {option}: given twice ({given}, {values})")
        setattr(namespace, self.dest, values)


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
        write_line(f"{parser.prog}: interrupted; every file is whole; {_again(namespace)}", error=True)
        return EXIT_INTERRUPTED
    except Exception:
        logging.getLogger(__name__).exception("internal error; please report it with the text above")
        return EXIT_INTERNAL
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _again(options: Collection[str]) -> str:
    """Return how to start a command again that was interrupted; `options`: all it has."""
    if "resume" in options:
        return "run it again with --resume"
    return "run it again" + (", with --overwrite where results are in its way" if "overwrite" in options else "")


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
