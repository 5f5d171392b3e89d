"""The doctor and the environment lines: fast, without torch at first, and right about what is missing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import make_bad
from house import setup_cfg

from nnunet_spine_ext.check import doctor as doctor_module
from nnunet_spine_ext.check import environment
from nnunet_spine_ext.check.doctor import doctor
from nnunet_spine_ext.check.environment import env, folders, machine, software, trainer_names, trainers_folder
from nnunet_spine_ext.check.model import look_at_model
from nnunet_spine_ext.check.probe import ask
from nnunet_spine_ext.check.report import DoctorReport, Row, Section
from nnunet_spine_ext.cli.doctor import main
from nnunet_spine_ext.core.errors import SetupError


def _codes(rows: list[Row]) -> dict[str, str]:
    return {row.name: row.problem.code for row in rows if row.problem is not None}


MINIMUMS = ("_MIN_DISK_GB", "_MIN_MEMORY_GB", "_MIN_SHM_GB")


@pytest.fixture(autouse=True)
def _any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set no minimum: how full this machine's disk and memory are decides no test."""
    for name in MINIMUMS:
        monkeypatch.setattr(environment, name, 0.0)


@pytest.fixture
def ready(nnunet_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Set every variable as it should be."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    return nnunet_folders


# ---- the first section -----------------------------------------------------------------------------------------

FIRST = """
import json, sys, time
start = time.perf_counter()
from nnunet_spine_ext.cli.doctor import main
code = main(["--no-import", "--json"])
heavy = [name for name in ("torch", "nnunetv2", "scipy", "nibabel", "SimpleITK") if name in sys.modules]
sys.stderr.write(json.dumps({"heavy": heavy, "seconds": time.perf_counter() - start, "code": code}))
"""


def test_first_section_is_fast_and_imports_no_torch(ready: dict[str, Path]) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, timeout=60, check=True)
    facts = json.loads(done.stderr)
    assert facts["heavy"] == []
    assert facts["seconds"] < 2
    assert facts["code"] == 0, done.stdout
    sections = json.loads(done.stdout)["sections"]
    assert [section["title"] for section in sections] == ["Software", "Folders", "Machine"]


def test_everything_in_order(ready: dict[str, Path]) -> None:
    report = doctor(no_import=True)
    errors = [row for section in report.sections for row in section.rows if row.status == "error"]
    assert errors == []
    assert report.exit_code == 0
    assert "able to work: 0 errors" in report.render()


def test_the_range_of_nnunet_is_that_of_setup_cfg() -> None:
    low, high = (".".join(map(str, version)) for version in environment.NNUNET_RANGE)
    assert f"nnunetv2>={low},<{high}" in setup_cfg()["options"]["install_requires"]
    assert ".".join(map(str, environment.PYTHON_MINIMUM)) in setup_cfg()["options"]["python_requires"]


@pytest.mark.parametrize(
    ("package", "version", "code"),
    [
        ("nnunetv2", "2.7.0", "E-ENV-NNUNET"),
        ("nnunetv2", "2.9.1", "E-ENV-NNUNET"),
        ("nnunetv2", None, "E-ENV-NNUNET"),
        ("nnunetv2", "2.8.4", ""),
        ("torch", "2.9.1+cu128", "E-ENV-TORCH"),
        ("torch", None, "E-ENV-PACKAGE"),
        ("SimpleITK", None, "E-ENV-PACKAGE"),
    ],
)
def test_versions(package: str, version: str | None, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment._version
    monkeypatch.setattr(environment, "_version", lambda name: version if name == package else real(name))
    found = _codes(software().rows)
    assert found == ({package: code} if code else {})


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PYTHON_MINIMUM", (4, 0))
    assert _codes(software().rows)["Python"] == "E-ENV-PYTHON"


def test_unset_and_missing_folders(ready: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _codes(folders().rows) == {}
    monkeypatch.delenv("nnUNet_raw")
    shutil.rmtree(ready["nnUNet_results"])
    ready["nnUNet_preprocessed"].rmdir()
    ready["nnUNet_preprocessed"].write_text("a file", encoding="utf-8")
    rows = {row.name: row for row in folders().rows}
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    assert {rows[name].problem.code for name in names} == {"E-ENV-PATH"}  # type: ignore[union-attr]
    assert "export nnUNet_raw=" in rows["nnUNet_raw"].problem.fix  # type: ignore[union-attr]
    assert "a file" in rows["nnUNet_preprocessed"].problem.found  # type: ignore[union-attr]
    assert f"mkdir -p {ready['nnUNet_results']}" in rows["nnUNet_results"].problem.fix  # type: ignore[union-attr]
    # Prediction with a model folder needs none of them.
    assert {row.status for row in folders(needed=False).rows} == {"ok", "warning"}


def _in_new_shell(lines: str, home: Path) -> dict[str, str]:
    """Run lines in a shell in which nothing of nnU-Net is set; return its variables."""
    names = " ".join(f'"${{{name}}}"' for name in (*environment.FOLDERS, "nnUNet_extTrainer"))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    clean |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = f"set -eu\n{lines}\nprintf '%s\\n' {names}"
    done = subprocess.run(["sh", "-c", script], env=clean, capture_output=True, text=True, check=True)
    return dict(zip((*environment.FOLDERS, "nnUNet_extTrainer"), done.stdout.splitlines(), strict=True))


def test_on_first_use_the_last_lines_set_everything_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.FOLDERS, "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    report = doctor(no_import=True)
    assert report.exit_code == 5
    answer, calming, *_ = report.verdict.splitlines()
    assert answer == "not set up yet: 4 errors, 0 warnings"
    assert "nnUNetv2_spine_predict -m MODEL_FOLDER works" in calming
    steps = [line.strip() for line in report.verdict.splitlines() if line.startswith("  ")]
    for name, value in _in_new_shell("\n".join(steps), tmp_path).items():
        monkeypatch.setenv(name, value)
    assert (tmp_path / "nnUNet" / "nnUNet_preprocessed").is_dir()
    assert doctor(no_import=True).exit_code == 0


def test_a_broken_machine_is_not_called_unset(ready: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setattr(environment, "PYTHON_MINIMUM", (4, 0))
    verdict = doctor(no_import=True).verdict
    assert verdict.startswith("not able to work: 2 errors")
    assert "Nothing is broken" not in verdict
    assert "export nnUNet_raw=" in verdict


def test_a_folder_that_cannot_be_written(ready: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_writable", lambda _folder: False)
    found = _codes(folders().rows)
    assert found["nnUNet_raw"] == "W-ENV-PATH"
    assert found["nnUNet_results"] == "E-ENV-PATH"


def test_writing_is_really_tried(tmp_path: Path) -> None:
    assert environment._writable(tmp_path)
    assert not environment._writable(tmp_path / "nothing")
    if Path("/proc").is_dir():
        assert not environment._writable(Path("/proc"))  # refuses root too
    assert list(tmp_path.iterdir()) == []


def test_ext_trainer(ready: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "nnUNet_extTrainer"
    monkeypatch.delenv(name)
    (row,) = (row for row in folders().rows if row.name == name)
    assert row.problem is not None
    assert row.problem.code == "E-ENV-EXTTRAINER"
    assert "nnUNetv2_spine_env" in row.problem.fix
    assert str(trainers_folder()) in row.problem.expected
    monkeypatch.setenv(name, str(tmp_path))
    assert _codes(folders().rows)[name] == "E-ENV-EXTTRAINER"
    monkeypatch.setenv(name, os.pathsep.join([str(tmp_path), str(trainers_folder())]))
    assert _codes(folders().rows) == {}
    monkeypatch.setenv(name, os.pathsep.join([str(tmp_path / "gone"), str(trainers_folder())]))
    assert _codes(folders().rows)[name] == "W-ENV-EXTTRAINER"


def test_little_disk_memory_and_shared_memory_are_warnings(
    ready: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MINIMUMS:
        monkeypatch.setattr(environment, name, 1e9)
    found = _codes([*folders().rows, *machine().rows])
    assert {"W-ENV-DISK", "W-ENV-MEMORY"} <= set(found.values())
    shm = environment._shm_row(ready["nnUNet_raw"])
    assert shm.problem is not None
    assert shm.problem.code == "W-ENV-SHM"
    assert environment._shm_row(Path("/no/such/folder")).status == "info"


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": "2000000000", "job/memory.current": "5"}),
        ("0::/unseen/from/inside", {"memory.max": "2000000000", "memory.current": "5"}),
        (
            "4:cpu,memory:/job",
            {"memory/job/memory.limit_in_bytes": "2000000000", "memory/job/memory.usage_in_bytes": "5"},
        ),
    ],
)
def test_memory_limits_of_control_groups(line: str, files: dict[str, str], tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "self"
    own.write_text(f"9:pids:/other\n{line}\n", encoding="utf-8")
    assert environment._cgroup_memory(root, own) == (None, 0)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n", encoding="ascii")
    assert environment._cgroup_memory(root, own) == (2_000_000_000, 5)


def test_no_limit_of_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("4:memory:/\n", encoding="utf-8")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712", encoding="ascii")
    assert environment._cgroup_memory(tmp_path, own) == (None, 0)


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert environment._memory(tmp_path / "none") == (None, 0.0)
    assert environment._cgroup_memory(tmp_path, tmp_path / "none") == (None, 0)


def test_command_line(ready: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-import"]) == 0
    assert "nnUNet_preprocessed" in capsys.readouterr().out
    shutil.rmtree(ready["nnUNet_results"])
    assert main(["--no-import", "--json"]) == 5
    content = json.loads(capsys.readouterr().out)
    assert content["exit_code"] == 5
    rows = {row["name"]: row for section in content["sections"] for row in section["rows"]}
    assert rows["nnUNet_results"]["problem"]["code"] == "E-ENV-PATH"


def test_report_counts_and_exit_code() -> None:
    assert DoctorReport([Section("x", [Row("a", "b", plain=True)])]).exit_code == 0
    assert "info" in DoctorReport([Section("x", [Row("a", "b", plain=True)])]).render()


# ---- nnU-Net's own answer --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ask nnU-Net once for ours, for one of its own and for one that nobody has."""
    return ask([*trainer_names(), "nnUNetTrainer", "nnUNetTrainerOfNobody"], ext_trainer=str(trainers_folder()))


def test_nnunet_finds_every_trainer(answers: dict[str, Any]) -> None:
    assert trainer_names()
    for name in trainer_names():
        facts = answers["trainers"][name]
        assert facts["found"], facts
        assert facts["pickles"]
        assert facts["module"].startswith("nnunet_spine_ext.training")
    assert answers["trainers"]["nnUNetTrainer"]["found"]
    assert not answers["trainers"]["nnUNetTrainerOfNobody"]["found"]
    assert "cpu" in {device["device"] for device in answers["devices"]}


def test_full_report(ready: dict[str, Path], answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "ask", lambda _names, ext_trainer: answers | {"asked": ext_trainer})
    report = doctor()
    assert report.exit_code == 0
    assert "nnunet_spine_ext.training" in report.render()
    assert report.sections[-1].title == "Devices"


def test_a_trainer_that_is_not_found_or_does_not_pickle(
    ready: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = trainer_names()[0]
    lost = {"found": False, "error": "ImportError: no module named x"}
    double = {"found": True, "module": "trainers.x", "pickles": False}
    for facts, word in ((lost, "no module named x"), (double, "workers")):
        trainers = {key: {"found": True, "module": "m", "pickles": True} for key in trainer_names()} | {name: facts}
        answer = {"trainers": trainers, "devices": []}
        monkeypatch.setattr(doctor_module, "ask", lambda _names, ext_trainer, a=answer: a)
        report = doctor()
        assert report.exit_code == 5
        assert "E-ENV-TRAINER" in report.render()
        assert word in report.render()


def test_a_broken_nnunet_is_reported_with_its_last_line(
    ready: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = doctor()
    assert report.exit_code == 5
    assert "E-ENV-PROBE" in report.render()
    assert "libcudart is missing" in report.render()


# ---- models ----------------------------------------------------------------------------------------------------


def _model(folder: Path) -> Path:
    from model_builder import LABELS14, SIDED14, make_model

    return make_model(folder / "nnUNetTrainerSpine__nnUNetPlans__3d_fullres", labels=LABELS14, sided=SIDED14)


@pytest.fixture(scope="module")
def good_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _model(tmp_path_factory.mktemp("model"))


def test_a_complete_model(good_model: Path) -> None:
    look = look_at_model(good_model)
    assert _codes(look.rows) == {}
    assert look.trainers == ["nnUNetTrainerSpine"]
    text = "\n".join(row.value for row in look.rows)
    assert "loads safely" in text
    assert "nnunet14" in text


@pytest.mark.parametrize(
    ("kind", "code", "word"),
    [
        ("model_without_checkpoint", "E-MODEL-FOLD", "no checkpoint"),
        ("model_without_plans", "E-MODEL-FOLDER", "plans.json"),
        ("foreign_checkpoint", "E-MODEL-CODE", "posix.getcwd"),
        ("plain_pickle_checkpoint", "E-MODEL-CHECKPOINT", "loaded safely"),
        ("truncated_checkpoint", "E-MODEL-CHECKPOINT", "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bad_models_are_refused_by_name(kind: str, code: str, word: str, tmp_path: Path) -> None:
    model = make_bad(kind, tmp_path)
    problems = [row.problem for row in look_at_model(model).rows if row.problem is not None]
    assert problems[0].code == code
    assert str(model) in problems[0].file
    assert word in f"{problems[0]}"
    assert problems[0].severity == "error"


def test_a_model_of_an_unknown_trainer(
    ready: dict[str, Path], answers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fake(names: list[str], ext_trainer: str | None) -> dict[str, Any]:
        asked.extend(names)
        lost = answers["trainers"]["nnUNetTrainerOfNobody"]
        return answers | {"trainers": {**answers["trainers"], "nnUNetTrainerOfSomebodyElse": lost}}

    monkeypatch.setattr(doctor_module, "ask", fake)
    report = doctor(make_bad("unknown_trainer", tmp_path))
    assert "nnUNetTrainerOfSomebodyElse" in asked
    assert report.exit_code == 5
    assert "E-MODEL-TRAINER" in report.render()


def test_a_model_needs_no_folders(good_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.FOLDERS, "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    report = doctor(good_model, no_import=True)
    assert report.exit_code == 0
    assert "W-ENV-PATH" in report.render()
    assert "not loaded" in report.render()


def test_wrong_level_of_a_model_folder(good_model: Path, tmp_path: Path) -> None:
    for folder, word in (
        (good_model / "fold_0", str(good_model)),
        (good_model.parent, good_model.name),
        (good_model.with_name(good_model.name[:-3]), good_model.name),
    ):
        (row,) = look_at_model(folder).rows
        assert row.problem is not None
        assert row.problem.code == "E-MODEL-FOLDER"
        assert word in row.problem.fix


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


def test_inconsistent_models(good_model: Path, tmp_path: Path) -> None:
    import torch

    def variant(name: str) -> Path:
        return Path(shutil.copytree(good_model, tmp_path / name))

    def codes(model: Path) -> list[str]:
        return list(_codes(look_at_model(model).rows).values())

    model = variant("json")
    (model / "plans.json").write_text("{", encoding="utf-8")
    _edit(model / "dataset.json", labels=None)
    assert codes(model) == ["E-MODEL-JSON", "E-MODEL-JSON"]
    model = variant("settings")
    _edit(model / "plans.json", spine_ext={"version": 7})
    assert codes(model) == ["E-MODEL-SETTINGS"]
    model = variant("reader")
    _edit(model / "plans.json", image_reader_writer="SimpleITKIO")
    assert codes(model) == ["W-MODEL-SIDES"]
    model = variant("configuration")
    _edit(model / "plans.json", configurations={"2d": {}})
    assert codes(model) == ["E-MODEL-CHECKPOINT"]
    model = variant("unfinished")
    fold = model / "fold_0"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_best.pth")
    assert codes(model) == ["W-MODEL-UNFINISHED"]
    model = variant("link")
    (model / "fold_0" / "checkpoint_final.pth").unlink()
    (model / "fold_0" / "checkpoint_final.pth").symlink_to("../../.git/annex/objects/x")
    assert codes(model) == ["E-MODEL-CHECKPOINT"]
    for change, code in (
        ({"inference_allowed_mirroring_axes": (0, 1, 2)}, "W-MODEL-SIDES"),
        ({"network_weights": {"w": torch.tensor([1.0, float("nan")])}}, "E-MODEL-CHECKPOINT"),
        ({"trainer_name": None}, "E-MODEL-CHECKPOINT"),
    ):
        model = variant(f"checkpoint_{'_'.join(change)}")
        path = model / "fold_0" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False) | change
        torch.save({k: v for k, v in content.items() if v is not None}, path)
        assert codes(model) == [code]


@pytest.mark.parametrize(
    ("transposed", "axes", "found"),
    [((0, 1, 2), (0,), []), ((0, 1, 2), (0, 1), ["W-MODEL-SIDES"]), ((1, 2, 0), (1,), []), ((2, 0, 1), (0, 1), [])],
    ids=str,
)
def test_the_left_right_axis_of_a_2d_patch_is_counted_in_the_patch(
    tmp_path: Path, transposed: tuple[int, ...], axes: tuple[int, ...], found: list[str]
) -> None:
    import torch

    model = _model(tmp_path)
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16]
    (model / "plans.json").write_text(json.dumps(plans | {"transpose_forward": list(transposed)}))
    path = model / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | {"inference_allowed_mirroring_axes": axes}, path)
    problems = [row.problem for row in look_at_model(model).rows if row.problem is not None]
    assert [problem.code for problem in problems] == found


# ---- nnUNetv2_spine_env ----------------------------------------------------------------------------------------


def _in_shell(lines: str, **variables: str) -> str:
    script = f'{lines}\nprintf %s "$nnUNet_extTrainer"'
    clean = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    return subprocess.run(
        ["sh", "-c", script], env={**clean, **variables}, capture_output=True, text=True, check=True
    ).stdout


def test_env_lines_work_in_a_shell() -> None:
    lines = env().render()
    assert _in_shell(lines) == str(trainers_folder())
    assert _in_shell(lines, nnUNet_extTrainer="/other place") == f"{trainers_folder()}:/other place"
    assert (trainers_folder() / f"{trainer_names()[0]}.py").is_file()


def test_env_quotes_what_a_shell_would_interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Path('/tmp/it\'s $HOME `x` "y" ümläut')
    monkeypatch.setattr(environment, "trainers_folder", lambda: odd)
    assert _in_shell(env().render()) == str(odd)
    assert shlex.quote(str(odd)) in env().render()


def test_env_names_unset_folders_as_comments(nnunet_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(env().lines) == 1
    monkeypatch.delenv("nnUNet_results")
    comments = env().lines[1:]
    assert all(line.startswith("#") for line in comments)
    assert any("export nnUNet_results=" in line for line in comments)
    assert not any("export nnUNet_raw" in line for line in comments)
    # A place is proposed beside those that are set.
    assert f"export nnUNet_results={nnunet_folders['nnUNet_raw'].with_name('nnUNet_results')} " in env().render()


def test_env_proposes_lines_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.FOLDERS, "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    result = env()
    assert result.exit_code == 0
    uncommented = "\n".join(line.removeprefix("# ") for line in result.lines if "export " in line or "mkdir" in line)
    found = _in_new_shell(uncommented, tmp_path)
    assert found["nnUNet_extTrainer"] == str(trainers_folder())
    for name in environment.FOLDERS:
        assert found[name] == str(tmp_path / "nnUNet" / name)
        assert Path(found[name]).is_dir()


def test_env_refuses_a_path_that_a_list_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "trainers_folder", lambda: Path("/tmp/a:b/trainers"))
    with pytest.raises(SetupError) as caught:
        env()
    assert caught.value.code == "E-ENV-TRAINERPATH"


def test_env_is_fast_and_light() -> None:
    code = "import sys; from nnunet_spine_ext.cli.env import main; main([]); sys.exit('torch' in sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert time.perf_counter() - start < 2
    assert done.stdout.startswith("export nnUNet_extTrainer=")
