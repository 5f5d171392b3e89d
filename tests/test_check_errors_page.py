"""docs/reference/errors.md holds every code of the library with its message, and the codes are well formed."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from house import ROOT

from nnunet_spine_ext.check.rules import RULES, finding


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_errors", ROOT / "docs" / "generate_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_code_is_on_the_page(generator: ModuleType) -> None:
    page = generator.PAGE.read_text(encoding="utf-8")
    missing = sorted(code for code in generator.codes() if f"| `{code}` |" not in page)
    assert not missing, f"run `make docs`: {missing}"


def test_the_page_is_current(generator: ModuleType) -> None:
    current = generator.render() == generator.PAGE.read_text(encoding="utf-8")
    assert current, "docs/reference/errors.md is older than the messages: run `make docs`"


def test_every_message_has_its_parts(generator: ModuleType) -> None:
    incomplete = [m for m in generator.messages() if not (m.found and m.expected and m.fix and m.exit_code)]
    assert not incomplete


def test_severity_and_exit_code_follow_from_the_code(generator: ModuleType) -> None:
    for message in generator.messages():
        assert (message.exit_code == "0") == message.code.startswith("W"), message


@pytest.mark.parametrize("code", RULES)
def test_rules_make_problems(code: str) -> None:
    problem = finding(code, "scan.nii.gz", "something", hint="this")
    assert problem.severity == {"E": "error", "W": "warning"}[code[0]]
    assert "{" not in str(problem)
    assert not problem.fix.endswith((".", " "))
    assert finding(code, "scan.nii.gz", "something", strict=True).severity == "error"
