"""What the machine offers, found without importing torch or nnU-Net (which takes seconds)."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nnunet_spine_ext
from nnunet_spine_ext.check.report import Row, Section
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.core.errors import Problem, SetupError

DISTRIBUTION = "nnunet-spine-ext"
FOLDERS = {
    "nnUNet_raw": "raw datasets",
    "nnUNet_preprocessed": "preprocessed data and plans",
    "nnUNet_results": "trained models",
}
EXT_TRAINER = "nnUNet_extTrainer"
# The versions that setup.cfg allows: from the first, up to but without the second.
NNUNET_RANGE = ((2, 8), (2, 9))
PYTHON_MINIMUM = (3, 11)
_GB = 1_000_000_000
_MIN_DISK_GB, _MIN_MEMORY_GB, _MIN_SHM_GB = 10.0, 4.0, 1.0


@dataclass(frozen=True)
class ShellLines:
    """Lines for ``eval "$(nnUNetv2_spine_env)"``."""

    lines: tuple[str, ...]
    exit_code: int = 0

    def render(self) -> str:
        """Return the lines."""
        return "\n".join(self.lines)


def env() -> ShellLines:
    """Return shell lines that let nnU-Net find the trainers; unset folder variables appear as comments.

    Raises SetupError when the trainers' folder has a path that a list of folders cannot hold.
    """
    folder = str(trainers_folder())
    if os.pathsep in folder:
        found = f"the separator {os.pathsep!r} in its path"
        raise _setup_error(finding("E-ENV-TRAINERPATH", folder, found, hint=repr(os.pathsep)))
    kept = f"${{{EXT_TRAINER}:+{os.pathsep}${EXT_TRAINER}}}"
    lines = [f"export {EXT_TRAINER}={shlex.quote(folder)}{kept}"]
    unset = [name for name in FOLDERS if not os.environ.get(name)]
    if unset:
        lines.append(
            "# nnU-Net's folders that are not set yet. Planning and training need them: take these lines, with other"
        )
        lines.append("# places if you like, into the file that your shell reads when it starts, such as ~/.bashrc:")
        exports = [f"export {name}={_proposed(name)}" for name in unset]
        width = max(map(len, exports))
        lines += [f"# {line:{width}}  # {FOLDERS[name]}" for line, name in zip(exports, unset, strict=True)]
        lines.append("# mkdir -p " + " ".join(f'"${name}"' for name in unset))
    return ShellLines(tuple(lines))


def _proposed(name: str) -> str:
    """Return where a folder of nnU-Net could be, quoted for a shell: beside those that are set, else at home."""
    for other in FOLDERS:
        if value := os.environ.get(other):
            return shlex.quote(str(Path(value).absolute().with_name(name)))
    return f'"$HOME/nnUNet/{name}"'


def trainers_folder() -> Path:
    """Return the folder that nnUNet_extTrainer must name, in a checkout, an editable install or a wheel."""
    package = importlib.import_module(f"{nnunet_spine_ext.__name__}.trainers")
    return Path(next(iter(package.__path__)))


def trainer_names() -> list[str]:
    """Return the names of the trainers of this plugin: one file each."""
    return sorted(path.stem for path in trainers_folder().glob("nnUNetTrainer*.py"))


def software() -> Section:
    """Look at Python and the packages, by their metadata alone."""
    found = platform.python_version()
    old = sys.version_info[:2] < PYTHON_MINIMUM
    rows = [Row("Python", f"{found} ({sys.executable})", finding("E-ENV-PYTHON", "python", found) if old else None)]
    where = Path(nnunet_spine_ext.__file__).parent
    rows.append(Row(DISTRIBUTION, f"{nnunet_spine_ext.__version__} ({where})"))
    rows += [_nnunet(), _torch()]
    for name in _requirements():
        version = _version(name)
        if version is None:
            rows.append(Row(name, "missing", finding("E-ENV-PACKAGE", name, "not installed", hint=name)))
    if not any(row.value == "missing" for row in rows):
        rows.append(Row("other packages", "all there"))
    return Section("Software", rows)


def folders(*, needed: bool = True) -> Section:
    """Look at the variables of nnU-Net; `needed` is False when only a model is to be used for prediction."""
    rows = [_folder_row(name, needed=needed) for name in FOLDERS]
    rows.append(_ext_trainer_row(needed=needed))
    return Section("Folders", rows)


def machine() -> Section:
    """Look at processors, memory, shared memory and the disk for temporary files."""
    return Section("Machine", [_processors(), _memory_row(), _shm_row(), _temp_row()])


def _setup_error(problem: Problem) -> SetupError:
    return SetupError(problem.code, file=problem.file, found=problem.found, expected=problem.expected, fix=problem.fix)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _requirements() -> list[str]:
    """Names of the packages this one needs, except those with rows of their own."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # a checkout that is not installed has no metadata
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]
    return [name for name in names if name not in ("nnunetv2", "torch")]


def _nnunet() -> Row:
    found = _version("nnunetv2")
    low, high = NNUNET_RANGE
    hint = f"from {'.'.join(map(str, low))}, below {'.'.join(map(str, high))}"
    if found is None:
        return Row("nnunetv2", "missing", finding("E-ENV-NNUNET", "nnunetv2", "not installed", hint=hint))
    fits = low <= _numbers(found)[:2] < high
    return Row("nnunetv2", found, None if fits else finding("E-ENV-NNUNET", "nnunetv2", found, hint=hint))


def _torch() -> Row:
    found = _version("torch")
    if found is None:
        return Row("torch", "missing", finding("E-ENV-PACKAGE", "torch", "not installed", hint="torch"))
    excluded = _numbers(found)[:2] == (2, 9)
    return Row("torch", found, finding("E-ENV-TORCH", "torch", found) if excluded else None)


def _folder_row(name: str, *, needed: bool) -> Row:
    value = os.environ.get(name, "")
    code = "E-ENV-PATH" if needed else "W-ENV-PATH"
    if not value:
        hint = f'export {name}={_proposed(name)} && mkdir -p "${name}"'
        return Row(name, f"not set ({FOLDERS[name]})", finding(code, name, "not set", hint=hint))
    folder = Path(value)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        return Row(name, value, finding(code, name, f"{value}: {found}", hint=f"mkdir -p {shlex.quote(value)}"))
    described = f"{value} ({shutil.disk_usage(folder).free / _GB:.0f} GB free)"
    if not _writable(folder):
        # Raw data may well lie on a read-only disk; only the converters write there.
        mild = "W-ENV-PATH" if name == "nnUNet_raw" else code
        hint = f"get write permission, or export {name}=ANOTHER_FOLDER"
        return Row(name, described, finding(mild, name, f"{value}: cannot be written", hint=hint))
    return Row(name, described, _little_disk(folder, name))


def _little_disk(folder: Path, name: str) -> Problem | None:
    free = shutil.disk_usage(folder).free / _GB
    return finding("W-ENV-DISK", name, f"{free:.1f} GB free in {folder}") if free < _MIN_DISK_GB else None


def _writable(folder: Path) -> bool:
    # Permission bits say nothing about read-only mounts, quotas and root: only writing tells.
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _ext_trainer_row(*, needed: bool) -> Row:
    value = os.environ.get(EXT_TRAINER, "")
    own = trainers_folder()
    code = "E-ENV-EXTTRAINER" if needed else "W-ENV-EXTTRAINER"
    entries = [Path(entry) for entry in value.split(os.pathsep) if entry.strip()]
    if not entries:
        return Row(EXT_TRAINER, "not set", finding(code, EXT_TRAINER, "not set", hint=str(own)))
    names = trainer_names()
    # Another copy of the plugin (a checkout beside an installed wheel) serves as well.
    if not any((entry / f"{name}.py").is_file() for entry in entries for name in names[:1]):
        return Row(EXT_TRAINER, value, finding(code, EXT_TRAINER, value, hint=str(own)))
    missing = [str(entry) for entry in entries if not entry.is_dir()]
    if missing:
        found = f"no such folder: {', '.join(missing)}"
        return Row(EXT_TRAINER, value, finding("W-ENV-EXTTRAINER", EXT_TRAINER, found, hint=str(own)))
    return Row(EXT_TRAINER, value)


def _processors() -> Row:
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:
        usable = os.cpu_count() or 1
    return Row("processors", f"{usable} ({platform.machine()}, {platform.system()})", plain=True)


def _memory_row() -> Row:
    total, free = _memory()
    limit, used = _cgroup_memory()
    if total is None:
        return Row("memory", "unknown on this system", plain=True)
    value = f"{total / _GB:.1f} GB, {free / _GB:.1f} GB free"
    if limit is not None and limit < total:
        free = min(free, limit - used)
        value += f"; this process may use {limit / _GB:.1f} GB (control group), {free / _GB:.1f} GB of them free"
    little = free < _MIN_MEMORY_GB * _GB
    return Row("memory", value, finding("W-ENV-MEMORY", "memory", f"{free / _GB:.1f} GB free") if little else None)


def _memory(table: Path = Path("/proc/meminfo")) -> tuple[float | None, float]:
    """Bytes of memory in all and free for new programs; None where the system does not say."""
    try:
        text = table.read_text(encoding="ascii")
    except OSError:
        return None, 0.0
    values = {key: 1024.0 * int(number) for key, number in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return values.get("MemTotal"), values.get("MemAvailable", values.get("MemFree", 0.0))


def _cgroup_memory(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> tuple[int | None, int]:
    """Smallest memory limit of the control groups this process is in, and what that group uses; None if unlimited."""
    try:
        text = own.read_text(encoding="utf-8")
    except OSError:
        return None, 0
    best: tuple[int, int] | None = None
    for _, controllers, name in (line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        base = root / "memory" if controllers else root
        group = base / name.lstrip("/")
        # A container often sees its own group as the root of the tree: look at every level.
        for folder in {group, base, *(p for p in group.parents if p.is_relative_to(base))}:
            limit = _integer(folder / files[0])
            if limit is not None and (best is None or limit < best[0]):
                best = (limit, _integer(folder / files[1]) or 0)
    # "No limit" of the first version of control groups is a number of 9 exabytes.
    return best if best is not None and best[0] < 1 << 60 else (None, 0)


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _shm_row(folder: Path = Path("/dev/shm")) -> Row:  # noqa: S108
    if not folder.is_dir():
        return Row("shared memory", f"no {folder} on this system", plain=True)
    free = shutil.disk_usage(folder).free / _GB
    problem = finding("W-ENV-SHM", str(folder), f"{free:.2f} GB free") if free < _MIN_SHM_GB else None
    return Row("shared memory", f"{free:.2f} GB free in {folder}", problem)


def _temp_row() -> Row:
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return Row("temporary files", "no folder", finding("E-ENV-TEMP", "TMPDIR", str(error)))
    free = shutil.disk_usage(folder).free / _GB
    return Row("temporary files", f"{folder} ({free:.0f} GB free)")
