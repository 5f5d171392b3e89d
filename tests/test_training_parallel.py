"""One process prepares for all: the others wait, and learn of errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_spine_ext.training.parallel import on_first_process

PROCESS = """
import sys, time
from pathlib import Path
from torch import distributed
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.training.parallel import on_first_process

folder, rank, fails = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "fails"
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

def action():
    time.sleep(1)
    if fails:
        raise SetupError("E-SOFT-NONE", found="nothing", expected="something", fix="add it")
    (folder / f"made_by_{rank}").touch()

try:
    on_first_process(action)
    print("seen", sorted(f.name for f in folder.glob("made_by_*")))
except SetupError as error:
    print("raised", error.code)
"""


@pytest.mark.parametrize(("how", "said"), [("works", "seen ['made_by_0']"), ("fails", "raised E-SOFT-NONE")])
def test_all_processes_wait_for_the_first_and_share_its_fate(tmp_path: Path, how: str, said: str) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank), how], stdout=subprocess.PIPE, text=True) for rank in (1, 0)]
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == [said, said]


def test_a_process_alone_just_does_it() -> None:
    done: list[int] = []
    on_first_process(lambda: done.append(1))
    assert done == [1]
