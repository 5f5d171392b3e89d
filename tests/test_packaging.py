"""Wheel, editable and uninstalled use: nnU-Net's own lookup finds every trainer, from any folder."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from house import PACKAGE, ROOT, commands, python_files
from installations import (
    ENV_COMMAND,
    Installation,
    build,
    contents,
    copy_checkout,
    install,
    nnunet_folder,
    trainer_folder,
)

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


@pytest.fixture(scope="module", params=KINDS)
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install(request.param, tmp_path_factory.mktemp(request.param))


def test_every_trainer_is_found_and_nnunet_stays_untouched(installation: Installation, tmp_path: Path) -> None:
    before = contents(nnunet_folder())
    folder = trainer_folder(installation, tmp_path, installation.python, "-c", ENV_COMMAND)
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
    assert contents(nnunet_folder()) == before


def test_converters_and_trainers_resolve_inside_a_checkout(installation: Installation) -> None:
    # Python puts the working folder first: its copy of the package must be complete too.
    script = f"import {PACKAGE}.trainers, {PACKAGE}.dataset_conversion; from {PACKAGE}.core import labels"
    installation.run(installation.python, "-c", script, cwd=installation.checkout)


def test_commands_are_installed(installation: Installation, tmp_path: Path) -> None:
    if installation.kind == "uninstalled":
        pytest.skip("no console scripts without an installation")
    folder = trainer_folder(installation, tmp_path, "nnUNetv2_spine_env")
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
    checkout = copy_checkout(tmp_path / "checkout")
    with zipfile.ZipFile(build("wheel", checkout, tmp_path / "wheel")) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {PACKAGE}
    wanted = {
        (path if path.parts[0] == PACKAGE else Path(PACKAGE, path)).as_posix()
        for path in python_files(PACKAGE, "trainers", "dataset_conversion")
    }
    data = {path.relative_to(ROOT) for path in (ROOT / PACKAGE).rglob("*") if path.is_file() and path.suffix != ".py"}
    # Compiled Python and the caches of linters are no data.
    wanted |= {path.as_posix() for path in data if not any(part[0] in "._" for part in path.parts[:-1])}
    assert wanted <= set(names), sorted(wanted - set(names))
