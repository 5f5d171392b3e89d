"""Wheel, editable and uninstalled use: nnU-Net's own lookup finds every trainer, from any folder.

Nothing is downloaded: each fresh environment borrows the packages of the running one through a .pth file. Python
reads .pth files only in its own site-packages, so an editable install of this project in the running environment
stays invisible there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from house import PACKAGE, ROOT, commands, python_files

pytestmark = pytest.mark.slow

TRAINERS = [path.stem for path in python_files("trainers") if path.name != "__init__.py"]
KINDS = ("wheel", "editable", "editable-compat", "uninstalled")

PROBE = """
import importlib, json, pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
answer = {}
for name in sys.argv[1:]:
    found = find(name)
    module = importlib.import_module(f"nnunet_spine_ext.trainers.{name}")
    answer[name] = {
        "module": found.__module__,
        "file": module.__file__,
        "same as imported": found is getattr(module, name),
        "same when found again": found is find(name),
        "same after pickling": pickle.loads(pickle.dumps(found)) is found,
    }
print(json.dumps(answer))
"""
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
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
        path = f"{self.folder / 'bin'}{os.pathsep}{inherited['PATH']}"
        env = {**inherited, **self.variables, **variables, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _call(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _copy_checkout(target: Path) -> Path:
    """Copy what a build needs, so that builds leave nothing in the checkout."""
    for folder in (PACKAGE, "trainers", "dataset_conversion"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


def _build(kind: str, checkout: Path, output: Path) -> Path:
    if kind == "wheel":
        build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", output, checkout)
        _call(sys.executable, "-m", "pip", *build)
    else:
        mode = {"editable_mode": "compat"} if kind == "editable-compat" else {}
        output.mkdir()
        script = f"from setuptools.build_meta import build_editable; build_editable({str(output)!r}, {mode!r})"
        _call(sys.executable, "-c", script, cwd=checkout)
    (wheel,) = output.glob("*.whl")
    return wheel


@pytest.fixture(scope="module", params=KINDS)
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    kind = request.param
    base = tmp_path_factory.mktemp(kind)
    checkout = _copy_checkout(base / "checkout")
    _call(sys.executable, "-m", "venv", "--without-pip", base / "venv")
    fresh = Installation(kind, base / "venv", checkout, {"PYTHONPATH": str(checkout)} if kind == "uninstalled" else {})
    if kind != "uninstalled":
        wheel = _build(kind, checkout, base / "wheel")
        install = ("install", "--no-deps", "--no-index", "--quiet", wheel)
        _call(sys.executable, "-m", "pip", "--python", fresh.python, *install)
    (site_packages,) = fresh.folder.glob("lib/python*/site-packages")
    borrowed = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site_packages / "borrowed.pth").write_text("".join(f"{folder}\n" for folder in borrowed))
    return fresh


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _nnunet_folder() -> Path:
    """Return where the borrowed nnU-Net lies, without importing it."""
    folders = [Path(sysconfig.get_path(key)) / "nnunetv2" for key in ("purelib", "platlib")]
    return next(folder for folder in folders if folder.is_dir())


def _trainer_folder(fresh: Installation, cwd: Path, script: tuple[str | Path, ...]) -> str:
    """Return nnUNet_extTrainer as a shell has it after ``eval "$(nnUNetv2_spine_env)"``."""
    lines = fresh.run(*script, cwd=cwd)
    return fresh.run("sh", "-c", f'{lines}\nprintf %s "$nnUNet_extTrainer"', cwd=cwd)


def test_every_trainer_is_found_and_nnunet_stays_untouched(installation: Installation, tmp_path: Path) -> None:
    before = _snapshot(_nnunet_folder())
    folder = _trainer_folder(installation, tmp_path, (installation.python, "-c", ENV_COMMAND))
    assert Path(folder).is_dir()
    out = installation.run(installation.python, "-c", PROBE, *TRAINERS, cwd=tmp_path, nnUNet_extTrainer=folder)
    answer = json.loads(out.splitlines()[-1])
    assert sorted(answer) == sorted(TRAINERS)
    own = installation.folder if installation.kind == "wheel" else installation.checkout
    for name, facts in answer.items():
        assert facts["module"].startswith(f"{PACKAGE}.training"), name
        assert Path(facts["file"]).is_relative_to(own), f"{name} comes from another copy: {facts['file']}"
        assert facts["same as imported"], name
        assert facts["same when found again"], name
        assert facts["same after pickling"], name
    assert _snapshot(_nnunet_folder()) == before


def test_converters_and_trainers_resolve_inside_a_checkout(installation: Installation) -> None:
    # Python puts the working folder first: its copy of the package must be complete too.
    script = f"import {PACKAGE}.trainers, {PACKAGE}.dataset_conversion; from {PACKAGE}.core import labels"
    installation.run(installation.python, "-c", script, cwd=installation.checkout)


def test_commands_are_installed(installation: Installation, tmp_path: Path) -> None:
    if installation.kind == "uninstalled":
        pytest.skip("no console scripts without an installation")
    folder = _trainer_folder(installation, tmp_path, ("nnUNetv2_spine_env",))
    assert (Path(folder) / "__init__.py").is_file()
    for command in commands():
        assert "examples:" in installation.run(command.name, "--help", cwd=tmp_path)


def test_an_existing_trainer_folder_is_kept(installation: Installation, tmp_path: Path) -> None:
    other = tmp_path / "other"
    lines = installation.run(installation.python, "-c", ENV_COMMAND, cwd=tmp_path, nnUNet_extTrainer=str(other))
    show = f'{lines}\nprintf %s "$nnUNet_extTrainer"'
    folders = installation.run("sh", "-c", show, cwd=tmp_path, nnUNet_extTrainer=str(other)).split(os.pathsep)
    assert str(other) in folders
    assert len(folders) == 2


def test_wheel_holds_the_package_and_its_data_and_nothing_else(tmp_path: Path) -> None:
    checkout = _copy_checkout(tmp_path / "checkout")
    with zipfile.ZipFile(_build("wheel", checkout, tmp_path / "wheel")) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {PACKAGE}
    wanted = {
        (path if path.parts[0] == PACKAGE else Path(PACKAGE, path)).as_posix()
        for path in python_files(PACKAGE, "trainers", "dataset_conversion")
    }
    data = {path.relative_to(ROOT) for path in (ROOT / PACKAGE).rglob("*") if path.is_file() and path.suffix != ".py"}
    wanted |= {path.as_posix() for path in data if "__pycache__" not in path.parts}
    assert wanted <= set(names), sorted(wanted - set(names))
