"""What every test shares: an environment of its own, the real images if there are any, slow files first."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

DATA_VARIABLE = "NNUNET_SPINE_TEST_DATA"
NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")

# One thread and one process per worker: two workers share two cores, and nnU-Net's defaults start 8 export
# processes of 0.7 GiB each. Tests that train set nnUNet_n_proc_DA to 0 themselves: planning fails with 0.
# Set at import, because torch and nnU-Net read some of these when they are imported.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "f",
        "MPLBACKEND": "Agg",
        "TQDM_DISABLE": "1",
    }
)
os.environ.pop("nnUNet_extTrainer", None)

# A shell starts jobs in the background with Ctrl-C ignored, and their children inherit that: tests that interrupt
# commands would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: a test that fails here fails everywhere.
settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _no_folders_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep nnU-Net away from the folders of whoever runs the tests."""
    base = tmp_path_factory.mktemp("nnunet")
    for name in NNUNET_FOLDERS:
        (base / name).mkdir()
        os.environ[name] = str(base / name)


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Return fresh nnUNet_raw, nnUNet_preprocessed and nnUNet_results of this test only, set in the environment."""
    folders = {name: tmp_path / name for name in NNUNET_FOLDERS}
    for name, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    return folders


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real images; skip, and say why, where there is none."""
    value = os.environ.get(DATA_VARIABLE, "")
    if not value:
        pytest.skip(f"{DATA_VARIABLE} is not set: no real images here")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{DATA_VARIABLE}={value} is not a folder")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use real images, and start files with slow tests first so that no worker idles at the end."""
    for item in items:
        if "test_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real")
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)


@pytest.fixture(autouse=True)
def _fresh_logger() -> None:
    """Undo what a command of an earlier test did to the package's logger: its level, handlers and propagation."""
    logger = logging.getLogger("nnunet_spine_ext")
    logger.handlers[:] = []
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
