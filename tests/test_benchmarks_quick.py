"""Every benchmark that trains has a quick form, and its help says how much that does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("name", "workload"),
    [
        ("test_time_augmentation", "6 spines, 2 epochs, two scanners, one test spine each"),
        ("test_time_training", "4 spines, 3 epochs of 10 steps, 2 scanners, 1 test spine each"),
        ("domain_adversarial", "9 spines, per loss 2 epochs of 10 steps"),
        ("finetune", "4 spines, 3 epochs of 4 steps, 1 and 2 spines of the other scanner"),
    ],
)
def test_the_quick_form_states_its_workload(
    name: str, workload: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"shows that it runs, meant for ten minutes at most: {workload}; no claim" in text
