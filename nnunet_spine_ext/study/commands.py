"""nnU-Net's own commands, run for a study in its own folders."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.threads import set_frugal_cpu
from nnunet_spine_ext.study.workers import run_command

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LOG = "log.txt"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def environment_of(study: Path, threads: int) -> dict[str, str]:
    """Return the variables of a study's processes: its folders, our trainers, as many threads, no waste."""
    environment = {name: str(study / name) for name in FOLDERS}
    environment |= {
        "nnUNet_extTrainer": str(trainers_folder()),
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "TQDM_DISABLE": "1",
    }
    set_frugal_cpu(environment)
    return environment


def command(study: Path, *words: object, training: bool = False, gpu: str | None = None) -> None:
    """Run a command of nnU-Net's or ours; raises SetupError with the last lines of its log when it fails.

    `gpu`: the only one that it may see, as CUDA_VISIBLE_DEVICES names it; None: those that this process sees.
    """
    line = [str(word) for word in words]
    environment = dict(os.environ)
    environment.pop("nnUNet_n_proc_DA", None)
    if training:
        # nnU-Net's single-threaded loader: planning refuses this setting.
        environment["nnUNet_n_proc_DA"] = "0"
    if gpu is not None:
        environment[VISIBLE] = gpu
    folder = study / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{_word(line)}.txt"
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n$ {shlex.join(line)}\n")
    code = run_command([_executable(line[0]), *line[1:]], log, environment)
    if code:
        tail = " | ".join(log.read_text(errors="replace").splitlines()[-4:])
        raise SetupError(
            "E-STUDY-COMMAND",
            file=log,
            found=f"{line[0]} ended with {code}: {tail}",
            expected="every command to succeed",
            fix="read the log; a new run of the study goes on from there",
        )


def _word(line: list[str]) -> str:
    """Return a name for the log of a command; trainings have logs of their own."""
    plans = [line[k + 1] for k, word in enumerate(line[:-1]) if word in ("-p", "-plans_name", "--name", "-d")]
    return "-".join([line[0].removeprefix("nnUNetv2_"), *plans])


def _executable(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name
