"""How sure a numbering network may be: the temperature of its scores, from validation spines to the numbering."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_builder import lumbar, write_dataset
from test_numbering_training import SPEC, TINY

from nnunet_spine_ext.core.errors import CaseError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.classifier import load_classifier
from nnunet_spine_ext.numbering.levels import LEVELS
from nnunet_spine_ext.numbering.model import UNCALIBRATED, NumberingModel, read_numbering_model
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.numbering.scoring import ScoreWeights, combine
from nnunet_spine_ext.numbering.training import calibrate as module
from nnunet_spine_ext.numbering.training.calibrate import calibrate, ended, windows_of
from nnunet_spine_ext.numbering.training.run import train_numbering

SPINE = LEVELS[1:19] + LEVELS[20:25]  # C2 to T12, L1 to L5.


class Spine:
    """A case whose patches say nothing: the network below knows the answers."""

    def __init__(self, name: str, count: int = len(SPINE)) -> None:
        self.case = self.subject = name
        self.names, self.sacrum = tuple(SPINE[:count]), True

    def patches(self) -> Array:
        """Return patches with a column of bone through the middle."""
        data = np.zeros((len(self.names), 3, *SPEC.size), np.float32)
        data[:, :, 2:10, 4:12, 2:6] = 1.0
        return data


class Oracle:
    """In place of a network: says the true level, or with some probability one that lies up to `shift` beside it."""

    spec = SPEC

    def __init__(self, error: float, certainty: float, *, runs: bool = True) -> None:
        self.error, self.certainty, self.runs = error, certainty, runs
        self.random = np.random.default_rng(0)

    def predict(self, patches: Array) -> VertebraScores:
        """Return scores; with `runs` a whole spine is off by the same, as it is where neighbours look alike."""
        count = len(patches)
        wrong = self.random.random(1 if self.runs else count) < self.error
        shift = np.where(wrong, self.random.choice((-1, 1)), 0)
        true = np.array([LEVELS.index(name) for name in SPINE[:count]])
        level = np.full((count, 26), (1 - self.certainty) / 25)
        level[np.arange(count), np.clip(true + shift, 0, 25)] = self.certainty
        return VertebraScores(level)


def spines(count: int) -> Any:
    return [Spine(f"s{k}") for k in range(count)]


def test_a_network_that_is_right_keeps_its_certainty_and_a_wrong_one_loses_it() -> None:
    right = calibrate(Oracle(0.0, 0.9), spines(6))  # type: ignore[arg-type]
    wrong = calibrate(Oracle(0.35, 0.9), spines(12))  # type: ignore[arg-type]
    assert right["temperature"] == 1.0
    assert wrong["temperature"] > 1.5
    assert wrong["nats"]["calibrated"] < wrong["nats"]["at_1"]
    assert right["windows"] > 100
    assert wrong["windows"] <= module.MOST_WINDOWS


def test_few_spines_say_nothing() -> None:
    assert calibrate(Oracle(0.5, 0.9), spines(3)) == {}  # type: ignore[arg-type]
    # Two scans of one person are one spine.
    twice = [*spines(3), *spines(3)]
    assert calibrate(Oracle(0.5, 0.9), twice) == {}  # type: ignore[arg-type]
    # Three vertebrae give no window.
    short = [*spines(3), Spine("short", 3)]
    assert calibrate(Oracle(0.5, 0.9), short) == {}  # type: ignore[arg-type]
    assert calibrate(Oracle(0.5, 0.9), [*short, Spine("four", 4)])["windows"] > 0  # type: ignore[arg-type]


def test_windows_are_parts_whose_pictures_end_in_their_outermost_vertebrae() -> None:
    asked: list[Array] = []

    class Watching(Oracle):
        def predict(self, patches: Array) -> VertebraScores:
            asked.append(patches)
            scores = super().predict(patches)
            # The answer tells which picture was asked about.
            return replace(scores, visible=np.full(len(patches), 0.2 * len(asked)))

    found = list(windows_of(Spine("a"), Watching(0.0, 0.9)))  # type: ignore[arg-type]
    assert len(asked) == 3
    last = [window for window in found if window.names[-1] == "L5"]
    assert all(window.sacrum for window in last)
    assert not any(window.sacrum for window in found if window.names[-1] != "L5")
    for window in found:
        assert window.scores.visible is not None
        assert len(window.scores) == len(window.names)
        end = 0.2 if window.sacrum else 0.6
        assert np.allclose(window.scores.visible, [0.4, *[0.2] * (len(window.names) - 2), end])


def test_a_picture_that_ends_is_empty_beyond() -> None:
    patches = Spine("a").patches()
    for above in (True, False):
        cut = ended(patches, above=above)
        rows = np.flatnonzero(cut[0, 1].any(axis=(0, 2)))
        # Bone in rows 4 to 11, the middle at 8: a quarter of the four on one side is gone.
        assert (rows[0], rows[-1]) == ((5, 11) if above else (4, 10))
        assert np.array_equal(cut[:, :, :, rows[0] : rows[-1] + 1], patches[:, :, :, rows[0] : rows[-1] + 1])
    nothing = np.zeros_like(patches)
    assert np.array_equal(ended(nothing, above=True), nothing)


def test_scores_carry_their_temperature_and_the_user_decides() -> None:
    table = np.full((3, 26), 0.2 / 25)
    table[:, 4] = 0.8
    plain, blunted = combine(VertebraScores(table))[0], combine(VertebraScores(table, temperature=2.0))[0]
    np.testing.assert_allclose(blunted, plain / 2)
    own = combine(VertebraScores(table, temperature=2.0), ScoreWeights(temperature=4.0))[0]
    np.testing.assert_allclose(own, plain / 4)
    assert VertebraScores(table, temperature=2.0).rows(np.array([1])).temperature == 2.0
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CaseError, match="temperature"):
            VertebraScores(table, temperature=wrong)


def test_folds_share_the_mean_of_their_temperatures() -> None:
    model = NumberingModel(temperatures={"0": 1.0, "1": 4.0})
    assert model.temperature((0, 1)) == pytest.approx(2.0)
    assert model.temperature((1,)) == pytest.approx(4.0)
    assert model.temperature((2,)) == UNCALIBRATED
    with pytest.raises(UsageError, match="fold 0: 0"):
        NumberingModel(temperatures={"0": 0.0})


def test_training_stores_it_with_the_model(
    nnunet_folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = [(f"case{k}", lumbar(k, ("L2", "L3", "L4", "L5"))) for k in range(8)]
    dataset = write_dataset(nnunet_folders["nnUNet_raw"], cases, contrast="T2w")
    out = tmp_path / "model"
    settings = [*TINY, "epochs=1", "samples_per_epoch=8"]
    train_numbering(dataset, f=["0"], o=out, preset="cpu", assignments=settings, device="cpu")
    told = read_json(out / "training" / "fold_0" / "result.json")["calibration"]
    assert told["windows"] > 0
    assert read_numbering_model(out).temperatures == {"0": told["temperature"]}
    assert load_classifier(out, device="cpu").temperature == pytest.approx(told["temperature"])
    # A network of all cases has nothing to be calibrated on: what experience says counts.
    caplog.clear()
    train_numbering(dataset, f=["all"], o=tmp_path / "all", preset="cpu", assignments=settings, device="cpu")
    assert "no calibration" in caplog.text
    assert read_numbering_model(tmp_path / "all").temperatures == {}
    classifier = load_classifier(tmp_path / "all", device="cpu")
    assert classifier.temperature == UNCALIBRATED
    assert classifier.predict(np.zeros((1, 3, *SPEC.size), np.float32)).temperature == UNCALIBRATED
    # A value that cannot be is a model that cannot be used.
    content = read_json(out / "numbering_model.json")
    write_json(out / "numbering_model.json", content | {"temperatures": {"0": 0.0}})
    with pytest.raises(SetupError, match=r"numbering_model\.json: temperatures: fold 0"):
        read_numbering_model(out)
    for name in ("zero", "7"):
        write_json(out / "numbering_model.json", content | {"temperatures": {name: 2.0}})
        with pytest.raises(SetupError, match=f"not there: {name}; "):
            read_numbering_model(out)
