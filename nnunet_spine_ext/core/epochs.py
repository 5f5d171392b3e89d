"""Trainings by epochs that can be stopped: their state on disk, a table of their epochs, and going on with them.

The state is one safetensors file, which no code can hide in.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import write_bytes, write_text

if TYPE_CHECKING:
    import torch

STATE_FILE = "state.safetensors"
LOG_FILE = "log.csv"
VERSION = 1
_KEY = "spine_ext"
_NETWORK, _OPTIMIZER = "network.", "optimizer."


class EpochTraining:
    """What trainings by epochs share: how far they are, saving that, and going on from it.

    No states of random generators are kept: a training draws from generators that are seeded anew in every epoch.

    Parameters
    ----------
    trained: everything with weights. optimizer: of them. state, log: files.
    """

    def __init__(self, trained: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Path, log: Path) -> None:
        self.optimizer = optimizer
        self._trained, self._state, self._log = trained, state, log
        self.epoch, self.cpu_seconds = 0, 0.0
        self.rows: list[dict[str, Any]] = []
        self.differences: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal for a state to be continued, as JSON values."""
        raise NotImplementedError

    def own_facts(self) -> dict[str, Any]:
        """Return what this kind of training has to remember besides, as JSON values."""
        return {}

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Take up again what `own_facts` returned."""

    def differing(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in what a state with these facts is of another training; nothing when it can be continued."""
        return tuple(key for key, value in self.identity.items() if facts.get(key) != value)

    def clear(self) -> None:
        """Take away state and table of an earlier training: a new one that is stopped must not look like it."""
        self._state.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)

    def record(self, row: Mapping[str, Any], *, write: bool = True) -> None:
        """Add the row of an epoch to the table and write that, in every epoch: also those without a state are read.

        Before `save`: rows beyond a state are left out when it is taken up again, missing ones would stay missing.
        `write`: not by every process that trains the same.
        """
        self.rows.append(dict(row))
        if write:
            write_log(self._log, self.rows)

    def resume(self) -> bool:
        """Go on from the state on disk; whether there was one that fits, else `differences` says why not.

        Raises
        ------
        SetupError: a damaged state.
        """
        if not self._state.is_file():
            return False
        facts = read_facts(self._state)
        self.differences = self.differing(facts)
        if self.differences:
            return False
        load_state(self._state, self._trained, self.optimizer)
        self.epoch, self.cpu_seconds = int(facts["epoch"]), float(facts["cpu_seconds"])
        self.recall(facts)
        self.rows = read_log(self._log, self.epoch)
        return True

    def save(self) -> None:
        """Write the state."""
        facts = {**self.identity, "epoch": self.epoch, "cpu_seconds": self.cpu_seconds, **self.own_facts()}
        save_state(self._state, self._trained, self.optimizer, facts)


def save_state(
    path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]
) -> None:
    """Write weights, the optimizer's moments and JSON facts (epoch, hash of the settings, …) atomically."""
    import torch
    from safetensors.torch import save

    tensors = {f"{_NETWORK}{name}": value for name, value in network.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(content, metadata={_KEY: json.dumps({"version": VERSION, **facts})}))


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a state without its tensors; raises SetupError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            facts = json.loads((stored.metadata() or {})[_KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    if facts.get("version") != VERSION:
        raise _damaged(path, ValueError(f"version {facts.get('version')}"))
    return dict(facts)


def load_state(path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a state into a network and an optimizer of the same settings; raises SetupError for a damaged file."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        network.load_state_dict(
            {name.removeprefix(_NETWORK): value for name, value in tensors.items() if name.startswith(_NETWORK)}
        )
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            number, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            like = parameters[int(number)]
            # In the memory layout of its parameter, as if it had never been away.
            whole = value if value.shape != like.shape else torch.empty_like(like.detach().cpu()).copy_(value)
            moments.setdefault(int(number), {})[key] = whole
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def read_log(path: Path, before: int) -> list[dict[str, Any]]:
    """Return the rows of the epochs before `before`; what a stopped run wrote beyond its last state is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [dict(row) for row in csv.DictReader(stream) if int(row["epoch"]) < before]


def write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table of epochs."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def _damaged(path: Path, error: Exception) -> SetupError:
    return SetupError(
        "E-TRAIN-STATE",
        file=path,
        found=f"cannot be read ({type(error).__name__}: {str(error)[:160]})",
        expected="the state of a training that was stopped",
        fix="train anew with --overwrite",
    )
