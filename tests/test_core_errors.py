"""Errors say which file, what was found, what was expected and what to do, also after a trip between processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from nnunet_spine_ext.core import errors

CLASSES = [
    (errors.UsageError, 2),
    (errors.CaseError, 3),
    (errors.NoInputError, 4),
    (errors.SetupError, 5),
    (errors.SpineExtError, 1),
]


def example(cls: type[errors.SpineExtError], file: str | Path | None = "a b/c.nii.gz") -> errors.SpineExtError:
    return cls("E-X", file=file, found="7 of 3", expected="3", fix="count again")


@pytest.mark.parametrize(("cls", "code"), CLASSES)
def test_exit_codes_and_message(cls: type[errors.SpineExtError], code: int) -> None:
    error = example(cls)
    assert error.exit_code == code
    assert str(error) == "a b/c.nii.gz: 7 of 3; expected 3; count again [E-X]"
    assert str(example(cls, None)) == "7 of 3; expected 3; count again [E-X]"
    assert isinstance(error, errors.SpineExtError)


@pytest.mark.parametrize(("cls", "code"), CLASSES)
@pytest.mark.parametrize("file", ["a/b.nii.gz", Path("a/b.nii.gz"), None])
def test_errors_survive_pickling(cls: type[errors.SpineExtError], code: int, file: str | Path | None) -> None:
    error = example(cls, file)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert back.exit_code == code
    assert str(back) == str(error)
    assert back.problem() == error.problem()


def test_a_problem_is_an_error_is_a_problem() -> None:
    problem = errors.Problem("error", "E-X", "a.nii", "7", "3", "count")
    assert problem.to_error().problem() == problem
    assert str(problem.to_error()) == str(problem)
    assert json.loads(json.dumps(problem.to_dict())) == {
        "severity": "error", "code": "E-X", "file": "a.nii", "found": "7", "expected": "3", "fix": "count",
    }  # fmt: skip
    with pytest.raises(AttributeError):
        problem.code = "E-Y"  # type: ignore[misc]
