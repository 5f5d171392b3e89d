"""Errors that tell the user which file, what was found, what was expected and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NO_INPUT = 4
EXIT_SETUP = 5
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Problem:
    """One finding about one file: an error (the case cannot be used) or a warning (it is used, and said so)."""

    severity: Severity
    code: str
    file: str
    found: str
    expected: str
    fix: str

    @staticmethod
    def unexpected(error: Exception, file: str | Path, expected: str) -> Problem:
        """Return the finding for an error of a case that nobody foresaw; `expected`: what the case was to give."""
        found = f"{type(error).__name__}: {error}"
        return Problem(
            "error", "E-INTERNAL", str(file), found, expected, "report this with the log; the other cases went on"
        )

    def to_dict(self) -> dict[str, str]:
        """Return the finding as plain JSON."""
        return asdict(self)

    def to_error(self) -> CaseError:
        """Return the finding as an exception that stops this case."""
        return CaseError(self.code, file=self.file, found=self.found, expected=self.expected, fix=self.fix)

    def __str__(self) -> str:
        return _sentence(self.code, self.file, self.found, self.expected, self.fix)


class SpineExtError(Exception):
    """Root of all errors that this package raises on purpose.

    Parameters
    ----------
    code: stable identifier such as ``E-IN-TRUNCATED``.
    file: the file, folder or option the message is about; None if there is none.
    found, expected, fix: half sentences without a full stop.
    """

    exit_code = EXIT_INTERNAL

    def __init__(self, code: str, *, file: str | Path | None = None, found: str, expected: str, fix: str) -> None:
        self.code = code
        self.file = "" if file is None else str(file)
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(_sentence(code, self.file, found, expected, fix))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword arguments do not survive pickling between processes by default.
        return _rebuild, (type(self), self.code, self.file, self.found, self.expected, self.fix)

    def problem(self) -> Problem:
        """Return the same facts as a `Problem` of severity error."""
        return Problem("error", self.code, self.file, self.found, self.expected, self.fix)


class UsageError(SpineExtError):
    """The command or the function was called wrongly: nothing was started."""

    exit_code = EXIT_USAGE


class CaseError(SpineExtError):
    """One case cannot be used; the others go on."""

    exit_code = EXIT_SOME_FAILED


class NoInputError(SpineExtError):
    """Nothing usable was found."""

    exit_code = EXIT_NO_INPUT


class SetupError(SpineExtError):
    """The environment or the model is not able to work."""

    exit_code = EXIT_SETUP


def _sentence(code: str, file: str, found: str, expected: str, fix: str) -> str:
    where = f"{file}: " if file else ""
    return f"{where}{found}; expected {expected}; {fix} [{code}]"


def _rebuild(cls: type[SpineExtError], code: str, file: str, found: str, expected: str, fix: str) -> SpineExtError:
    return cls(code, file=file or None, found=found, expected=expected, fix=fix)
