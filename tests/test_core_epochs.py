"""Trainings by epochs: what is saved, what is gone on with, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_spine_ext.core.epochs import LOG_FILE, STATE_FILE, EpochTraining, read_facts, read_log
from nnunet_spine_ext.core.errors import SetupError


class Training(EpochTraining):
    """A training of two convolutions towards silence."""

    def __init__(self, folder: Path, seed: int = 0, cases: tuple[str, ...] = ("a", "b")) -> None:
        self.seed, self.cases, self.best = seed, list(cases), -1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
        self.network = network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        super().__init__(self.network, optimizer, folder / STATE_FILE, folder / LOG_FILE)

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal."""
        return {"seed": self.seed, "cases": self.cases}

    def own_facts(self) -> dict[str, Any]:
        """Remember the best loss."""
        return {"best": self.best}

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Take the best loss up again."""
        self.best = float(facts["best"])

    def run(self, epochs: int, *, save: bool = True) -> None:
        """Train until so many epochs are done."""
        while self.epoch < epochs:
            images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(self.epoch))
            self.optimizer.zero_grad()
            loss = self.network(images).square().mean()
            loss.backward()
            self.optimizer.step()
            self.best = max(self.best, float(loss.detach()))
            self.cpu_seconds += 1
            self.record({"epoch": self.epoch, "loss": float(loss.detach())})
            self.epoch += 1
            if save:
                self.save()


def test_a_training_that_went_on_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole, first = Training(tmp_path / "whole"), Training(tmp_path / "parts")
    whole.run(4)
    first.run(2)
    second = Training(tmp_path / "parts")
    assert second.resume()
    assert (second.epoch, second.cpu_seconds, second.best, len(second.rows)) == (2, 2.0, first.best, 2)
    second.run(4)
    for name in (STATE_FILE, LOG_FILE):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_rows_beyond_the_state_are_left_out(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.run(1)
    with (tmp_path / LOG_FILE).open("a") as stream:
        stream.write("1,0.5\n")
    again = Training(tmp_path)
    assert again.resume()
    assert [row["epoch"] for row in again.rows] == ["0"]


def test_every_epoch_is_in_the_table_before_it_is_in_a_state(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.run(1)
    training.run(3, save=False)
    assert [row["epoch"] for row in read_log(tmp_path / LOG_FILE, 9)] == ["0", "1", "2"]
    assert read_facts(tmp_path / STATE_FILE)["epoch"] == 1
    other = Training(tmp_path)
    other.record({"epoch": 0, "loss": 0.5}, write=False)
    assert len(read_log(tmp_path / LOG_FILE, 9)) == 3


def test_a_new_training_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    Training(tmp_path).run(1)
    again = Training(tmp_path)
    again.clear()
    again.clear()
    assert not list(tmp_path.iterdir())
    assert not again.resume()


def test_a_training_killed_while_it_saves_has_every_row_of_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    training.run(1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("save_state", "write_log"):
        with monkeypatch.context() as patch:
            patch.setattr(f"nnunet_spine_ext.core.epochs.{name}", killed)
            with pytest.raises(KeyboardInterrupt):
                training.run(training.epoch + 1)
        again = Training(tmp_path)
        assert again.resume()
        assert [int(row["epoch"]) for row in again.rows] == list(range(again.epoch))


def test_without_a_state_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert (training.resume(), training.differences) == (False, ())


def test_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    Training(tmp_path).run(1)
    other = Training(tmp_path, seed=1, cases=("a",))
    before = [value.clone() for value in other.network.state_dict().values()]
    assert (other.resume(), other.differences) == (False, ("seed", "cases"))
    assert other.epoch == 0
    assert all(map(torch.equal, before, other.network.state_dict().values()))


def test_facts_can_be_read_without_weights(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.run(1)
    facts = {"version": 1, "seed": 0, "cases": ["a", "b"], "epoch": 1, "cpu_seconds": 1.0, "best": training.best}
    assert read_facts(tmp_path / STATE_FILE) == facts


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes | None) -> None:
    training = Training(tmp_path)
    training.run(1)
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(SetupError, match=r"state\.safetensors.*E-TRAIN-STATE"):
        training.resume()
