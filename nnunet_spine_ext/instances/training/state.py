"""The state of a training on disk: one safetensors file that no code can hide in, and a table of its epochs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import write_bytes, write_text

STATE_FILE = "state.safetensors"
LOG_FILE = "log.csv"
VERSION = 1
_KEY = "spine_ext"
_NETWORK, _OPTIMIZER = "network.", "optimizer."


def save_state(
    path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]
) -> None:
    """Write weights, the optimizer's moments and JSON facts (epoch, hash of the settings, …) atomically."""
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
        fix="start the fold anew with --overwrite",
    )
