"""What there is to choose from, and configurations of other tools as ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.augment.config import PRESETS, AugmentConfig, preset_names
from nnunet_spine_ext.augment.migrate import Imported, import_config
from nnunet_spine_ext.augment.profiles import COMPONENTS, load_profile, profile_names
from nnunet_spine_ext.augment.transform import STAGES, registry
from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError
from nnunet_spine_ext.core.io import write_text
from nnunet_spine_ext.core.partial import unwritable

_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Listing:
    """Names with a line each: `transforms` by stage, `presets`, `scanners`, the `components` of a scanner."""

    transforms: dict[str, dict[str, str]]
    presets: dict[str, str]
    scanners: dict[str, str]
    components: tuple[str, ...] = COMPONENTS

    exit_code = EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "transforms": self.transforms,
            "presets": self.presets,
            "scanners": self.scanners,
            "components": list(self.components),
        }

    def render(self) -> str:
        """Return the lists for people."""
        lines = ["presets (--config):", *_rows(self.presets), "", "scanners (--profile):", *_rows(self.scanners)]
        lines.append(f"  severities of {', '.join(self.components)}: NAME:noise=0.5, NAME:all=0:bias=1")
        for stage, rows in self.transforms.items():
            lines += ["", f"transforms (--transform), stage {stage}:", *_rows(rows)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Converted:
    """A configuration of another tool: what became of it, and the file it was written to, if any.

    `planned`: where a dry run would have written.
    """

    imported: Imported
    path: Path | None
    planned: Path | None = None

    @property
    def exit_code(self) -> int:
        """Not zero if something has no counterpart."""
        return EXIT_SOME_FAILED if self.imported.unmatched else EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {"yaml": None if self.path is None else str(self.path), **self.imported.to_dict()}

    def render(self) -> str:
        """Return what was converted, what has no counterpart and what does nothing."""
        made = self.imported
        count = len(list(made.config.flat()))
        lines = [f"{made.layout}: {len(made.converted)} entries became {count} transforms ({made.config.hash})"]
        for title, rows in (
            ("converted", made.converted),
            ("differs for all", made.remarks),
            ("without effect there", made.ignored),
            ("WITHOUT COUNTERPART", made.unmatched),
        ):
            lines += [f"{title}:", *(f"  {row}" for row in rows)] if rows else []
        if not made.unmatched:
            lines.append("nothing is without a counterpart")
        if self.path is not None:
            lines.append(f"written: {self.path} (look at it with --config {self.path})")
        if self.planned is not None:
            lines.append(f"would be written: {self.planned}")
        return "\n".join(lines)


def listing_of_all() -> Listing:
    """Return all transforms, presets and scanner profiles."""
    transforms: dict[str, dict[str, str]] = {stage: {} for stage in STAGES}
    for name, cls in registry().items():
        transforms[cls.stage][name] = (cls.__doc__ or "").strip().splitlines()[0]
    presets = {name: _first_sentence(PRESETS / f"{name}.yaml") for name in preset_names()}
    scanners = {name: load_profile(name).description for name in profile_names()}
    return Listing({stage: rows for stage, rows in transforms.items() if rows}, presets, scanners)


def converted(
    source: str | Path, o: str | Path | None, spacing: Sequence[float] | None = None, *, dry_run: bool = False
) -> Converted:
    """Convert a configuration of SmaugLab or AugLab and write it as YAML.

    Parameters
    ----------
    source: its JSON file. o: our file, None: nothing is written.
    spacing: mm; the finest is what a voxel is taken for where their numbers are voxels and ours mm.

    Raises
    ------
    UsageError: a file that is neither, or an output that is no YAML. SetupError: it cannot be written.
    """
    if o is not None and Path(o).suffix.lower() not in _YAML:
        raise UsageError(
            "E-CONFIG-VALUE", file="-o", found=str(o), expected="a name ending in .yaml", fix="correct the option"
        )
    if spacing is not None and min(spacing) <= 0:
        raise UsageError(
            "E-CONFIG-VALUE",
            file="--spacing",
            found=str(min(spacing)),
            expected="positive lengths in mm",
            fix="correct the option",
        )
    imported = import_config(source) if spacing is None else import_config(source, voxel=min(spacing))
    if o is None or dry_run:
        return Converted(imported, None, None if o is None else Path(o))
    path = Path(o)
    try:
        write_text(path, _as_yaml(imported, Path(source).name))
    except OSError as error:
        raise unwritable(path, error, "name a place that can be written") from error
    # What was written is what was meant.
    AugmentConfig.load(path)
    return Converted(imported, path)


def _as_yaml(imported: Imported, name: str) -> str:
    import yaml

    head = [f"Converted from {name} of {imported.layout}.", *imported.remarks]
    comments = "".join(f"# {line}\n" for line in head)
    return comments + str(yaml.safe_dump(imported.config.to_dict(), sort_keys=False, width=110))


def _rows(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows), default=0) + 2
    return [f"  {name:{width}}{text}" for name, text in rows.items()]


def _first_sentence(path: Path) -> str:
    """Return the first sentence of the comment that a file begins with."""
    comment = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines()]
    first, stop, _ = " ".join(comment).partition(". ")
    return first + stop.strip()
