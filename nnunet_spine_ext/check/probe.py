"""Ask nnU-Net itself, in a process of its own: which trainers it finds, which devices PyTorch sees.

Importing nnU-Net takes seconds and a broken trainer folder can end the process: both stay outside the caller.
Run as ``python -m nnunet_spine_ext.check.probe ANSWER.json TRAINER…``.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import read_json, write_json

TIMEOUT_S = 300


def ask(trainers: Sequence[str], *, ext_trainer: str | None = None) -> dict[str, Any]:
    """Return ``{"trainers": {name: {...}}, "devices": [...]}``, or ``{"error": last line}`` if it cannot be asked.

    `ext_trainer` replaces nnUNet_extTrainer in the process that is asked.
    """
    environment = dict(os.environ)
    if ext_trainer is not None:
        environment["nnUNet_extTrainer"] = ext_trainer
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", __name__, str(answer), *trainers]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"no answer within {TIMEOUT_S} s"}
        if not answer.is_file():
            last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            return {"error": last}
        result: dict[str, Any] = read_json(answer)
        return result


def main(arguments: Sequence[str]) -> None:
    """Write the answer for the given trainers to the file that the first argument names."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = {"devices": _devices(), "trainers": {name: _lookup(name) for name in arguments[1:]}}
    write_json(arguments[0], result)


def _lookup(name: str) -> dict[str, Any]:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        found = recursive_find_trainer_class_by_name(name)
    except (Exception, SystemExit) as error:  # a setup.py in a wrong folder ends the process
        return {"found": False, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    try:
        pickles = pickle.loads(pickle.dumps(found)) is found  # noqa: S301 (our own bytes)
    except (pickle.PicklingError, AttributeError, ImportError) as error:
        return {"found": True, "module": found.__module__, "pickles": False, "error": str(error)}
    return {"found": True, "module": found.__module__, "pickles": pickles}


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            devices.append({"device": f"cuda:{number}", "name": facts.name, "memory": facts.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU", "memory": None})
    devices.append({"device": "cpu", "name": f"{torch.get_num_threads()} threads", "memory": None})
    return devices


if __name__ == "__main__":
    main(sys.argv[1:])
