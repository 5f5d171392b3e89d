"""Fresh environments in which the project is installed in one way or another, and what they leave untouched.

Nothing is downloaded: each environment borrows the packages of the running one through a .pth file. Python reads .pth
files only in its own site-packages, so an editable install of this project in the running environment stays invisible.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from house import PACKAGE, ROOT

ENV_COMMAND = "import sys; from nnunet_spine_ext.cli.env import main; sys.exit(main([]))"


@dataclass(frozen=True)
class Installation:
    """A fresh environment in which the project is usable in one way."""

    kind: str
    folder: Path
    checkout: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *command: str | Path, cwd: Path, **variables: str) -> str:
        # Nor what other tests of the process, or whoever runs them, have told nnU-Net.
        own = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME", "nnUNet_extTrainer")
        inherited = {k: v for k, v in os.environ.items() if k not in own}
        path = f"{self.folder / 'bin'}{os.pathsep}{inherited['PATH']}"
        env = {**inherited, **self.variables, **variables, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def call(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_checkout(target: Path) -> Path:
    """Copy what a build needs, so that builds leave nothing in the checkout."""
    for folder in (PACKAGE, "trainers", "dataset_conversion"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


def build(kind: str, checkout: Path, output: Path) -> Path:
    if kind == "wheel":
        options = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", output, checkout)
        call(sys.executable, "-m", "pip", *options)
    else:
        mode = {"editable_mode": "compat"} if kind == "editable-compat" else {}
        output.mkdir()
        script = f"from setuptools.build_meta import build_editable; build_editable({str(output)!r}, {mode!r})"
        call(sys.executable, "-c", script, cwd=checkout)
    (wheel,) = output.glob("*.whl")
    return wheel


def install(kind: str, base: Path) -> Installation:
    """Make an environment in a folder; `kind` is ``wheel``, ``editable``, ``editable-compat`` or ``uninstalled``."""
    checkout = copy_checkout(base / "checkout")
    call(sys.executable, "-m", "venv", "--without-pip", base / "venv")
    fresh = Installation(kind, base / "venv", checkout, {"PYTHONPATH": str(checkout)} if kind == "uninstalled" else {})
    if kind != "uninstalled":
        wheel = build(kind, checkout, base / "wheel")
        options = ("install", "--no-deps", "--no-index", "--quiet", wheel)
        call(sys.executable, "-m", "pip", "--python", fresh.python, *options)
    (site_packages,) = fresh.folder.glob("lib/python*/site-packages")
    borrowed = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site_packages / "borrowed.pth").write_text("".join(f"{folder}\n" for folder in borrowed))
    return fresh


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder, without compiled Python."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def nnunet_folder() -> Path:
    """Return where the borrowed nnU-Net lies, without importing it."""
    folders = [Path(sysconfig.get_path(key)) / "nnunetv2" for key in ("purelib", "platlib")]
    return next(folder for folder in folders if folder.is_dir())


def trainer_folder(fresh: Installation, cwd: Path, *command: str | Path) -> str:
    """Return nnUNet_extTrainer as a shell has it after ``eval "$(nnUNetv2_spine_env)"``."""
    lines = fresh.run(*command, cwd=cwd)
    return fresh.run("sh", "-c", f'{lines}\nprintf %s "$nnUNet_extTrainer"', cwd=cwd)
