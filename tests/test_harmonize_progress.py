"""Long work says how far it is, also where nobody sees a bar."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from slice_cohort import dataset

from nnunet_spine_ext.harmonize import progress
from nnunet_spine_ext.harmonize.progress import duration, paced
from nnunet_spine_ext.training.harmonize import train


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    # Commands keep messages from other libraries' handlers, and with them from the test's.
    monkeypatch.setattr(logging.getLogger("nnunet_spine_ext"), "propagate", True)
    caplog.set_level(logging.INFO, "nnunet_spine_ext")
    return caplog


def test_lines_come_at_a_pace(said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert list(paced("abcdefghij", "epoch 1", 10)) == list("abcdefghij")
    assert said.messages == [
        "epoch 1: 3 of 10 steps, about 70 s left",
        "epoch 1: 6 of 10 steps, about 40 s left",
        "epoch 1: 9 of 10 steps, about 10 s left",
    ]
    assert (duration(90), duration(150)) == ("90 s", "2 min")


def test_quick_work_and_silent_processes_say_nothing(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(paced([1, 2], "a", 2)) == [1, 2]
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    said.set_level(logging.CRITICAL, "nnunet_spine_ext")
    assert list(paced([1, 2], "a", 2)) == [1, 2]
    assert not said.messages


def test_a_training_tells_what_it_does_before_its_first_epoch(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    rows = [{"case": f"{vendor}_{k}", "manufacturer": vendor} for vendor in ("Siemens", "GE") for k in range(3)]
    raw = dataset(tmp_path, rows)
    plain = [f"weights.{name}=0" for name in ("target_dice", "source_dice", "radiomics", "floor")]
    small = ["slices.size=[32,32]", "radiomics.roi=[32,16]", "batch_size=2", "slices_per_epoch=4", "epochs=1"]
    train([raw], target="Siemens", o=tmp_path / "m", preset="smoke", device="cpu",
          assignments=[*plain, *small, "judge_warmup=2"])  # fmt: skip
    wanted = [
        "reading slices of Siemens, then of GE",
        "reading scans: 1 of 3 scans",
        "measuring the target",
        "features of the target: 1 of",
        "training on cpu, epochs 1 to 1",
        "discriminators before the first epoch: 1 of 2",
        "epoch 1: 1 of 2 steps",
        "epoch 1 of 1: loss",
    ]
    places = [next((k for k, line in enumerate(said.messages) if text in line), None) for text in wanted]
    assert None not in places, (wanted[places.index(None)], said.messages)
    assert places == sorted(places)
