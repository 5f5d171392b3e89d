"""The folder of a study: what was there before, its log, the versions that made it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.study.commands import LOG

logger = logging.getLogger(__name__)
PACKAGES = ("nnunetv2", "torch", "numpy", "scipy", "nibabel")


def before(folder: Path, file: str, kind: str, *, resume: bool) -> dict[str, Any] | None:
    """Return what is known of an earlier study in the folder; None: it is new.

    Parameters
    ----------
    file: of the study's facts, whose ``kind`` must be `kind`.

    Raises
    ------
    UsageError: the folder holds something else, or a study without `resume`.
    """
    path = folder / file
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    known: Any = read_json(path) if folder.is_dir() and path.is_file() else None
    if not isinstance(known, dict) or known.get("kind") != kind:
        raise UsageError(
            "E-STUDY-FOLDER",
            file=folder,
            found="something that no study made",
            expected="a new folder, or that of a study",
            fix="choose another -o",
        )
    if not resume:
        raise UsageError(
            "E-STUDY-EXISTS",
            file=folder,
            found="a study",
            expected="a new folder",
            fix="add --resume to go on with it, or choose another -o",
        )
    return known


def log_changes(known: dict[str, Any] | None, config: dict[str, Any]) -> None:
    """Say what differs from an earlier study in the folder: its configuration, the versions of packages."""
    if known is None:
        return
    old = known.get("config", {})
    changed = sorted(key for key in config if config[key] != old.get(key))
    if changed:
        logger.warning("the configuration has another %s: what depends on it is done again", ", ".join(changed))
    past = known.get("versions", {})
    others = [f"{name} {past[name]} (now {now})" for name, now in versions().items() if past.get(name, now) != now]
    if others:
        logger.warning(
            "steps done with %s are kept; begin in a new folder to have all of one version", ", ".join(others)
        )


def versions() -> dict[str, str]:
    """Return the versions of this package and of those that decide numbers."""
    return {"nnunet_spine_ext": __version__} | {name: version(name) for name in PACKAGES}


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Write everything that is said to the log file, too."""
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("nnunet_spine_ext")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
