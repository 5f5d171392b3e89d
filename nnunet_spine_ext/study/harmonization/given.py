"""Models that an evaluation is given: which ones they are, what slices they take, whom they were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.model_folder import FINAL, is_model
from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json, sha256
from nnunet_spine_ext.core.model_folders import weights_file
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.harmonize.harmonizer import MODEL_FILE, read_harmonizer
from nnunet_spine_ext.harmonize.segmenter import MODEL_FILE as SEGMENTER_FILE
from nnunet_spine_ext.harmonize.segmenter import is_segmenter, read_segmenter
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.study.harmonization.config import WHOLE, HarmonizationConfig

# Pixels this near to each other (share) are taken for the same, as in segmenters.
_SAME_SPACING = 0.005
HARMONIZER = "harmonizer"
"""What a given harmonizer is in a configuration."""


def harmonizer_facts(folder: Path) -> dict[str, str]:
    """Return what decides the answers of a harmonizer: its description has the hashes of all its files.

    Raises
    ------
    SetupError: no harmonizer.
    """
    read_harmonizer(folder)
    return {"folder": str(folder), "sha256": sha256(folder / MODEL_FILE)}


def segmenter_facts(folder: Path) -> dict[str, str]:
    """Return what decides the answers of a segmenter: one of our own, or a model of nnU-Net.

    Raises
    ------
    SetupError: neither of them.
    """
    if _is_network(folder):
        files = [folder / "plans.json", folder / "dataset.json", *sorted(folder.glob(f"fold_*/{FINAL}"))]
    else:
        read_segmenter(folder)
        files = [folder / SEGMENTER_FILE, weights_file(folder, 0)]
    # Its name among the files: of two folds that change places, each is another.
    told = [(str(path.relative_to(folder)), sha256(path)) for path in files if path.is_file()]
    return {"folder": str(folder), "sha256": hashlib.sha256(repr(told).encode()).hexdigest()}


def facts_of(name: str, folder: Path) -> dict[str, str]:
    """Return what decides the answers of a given model, by what it is in the configuration."""
    return harmonizer_facts(folder) if name == HARMONIZER else segmenter_facts(folder)


def _is_network(folder: Path) -> bool:
    return is_model(folder) and not is_segmenter(folder)


def given_folders(config: HarmonizationConfig) -> dict[str, Path]:
    """Return the folders of the given models that take part, by what they are in the configuration."""
    found = {f"segmenters.{name}": plan.folder for name, plan in config.segmenters.items()}
    found[HARMONIZER] = config.harmonizer.folder if WHOLE in config.arms else None
    return {name: Path(folder).resolve() for name, folder in found.items() if folder is not None}


def on_given_slices(config: HarmonizationConfig) -> HarmonizationConfig:
    """Return the configuration with the pixels of the given models, where it names none itself.

    Raises
    ------
    UsageError: a given model takes other slices than the configuration cuts. SetupError: no model.
    """
    folders = given_folders(config)
    cut = config.slices
    if cut.fit == "crop" and cut.spacing is None:
        first = [name for name in (f"segmenters.{config.main}", HARMONIZER) if name in folders]
        known = [size for size in (_pixels(name, folders[name]) for name in first) if size is not None]
        cut = replace(cut, spacing=known[0]) if known else cut
    for name, folder in folders.items():
        own = slices_of(folder, harmonizer=name == HARMONIZER)
        if own is not None:
            refuse_other_slices(own, cut, folder)
    return replace(config, slices=cut)


def _pixels(name: str, folder: Path) -> float | None:
    own = slices_of(folder, harmonizer=name == HARMONIZER)
    if own is not None:
        return own.spacing if own.fit == "crop" else None
    from nnunet_spine_ext.inference.slice_segmenter import load_slice_segmenter

    return load_slice_segmenter(folder).spacing


def slices_of(folder: Path, *, harmonizer: bool) -> SliceSettings | None:
    """Return how the slices of a model were made; None for one of nnU-Net, which resamples and scales them itself."""
    if harmonizer:
        return read_harmonizer(folder).slices
    return None if _is_network(folder) else read_segmenter(folder).slices


def refuse_other_slices(own: SliceSettings, cut: SliceSettings, model: Path) -> None:
    """Raise UsageError where slices are cut otherwise than those a model was made from: fit, scaling, pixels.

    Pixels that are not known yet are not compared; where slices are resized, their size is what counts.
    """
    rows: list[tuple[str, Any, Any, bool]] = []
    for name in ("fit", "scaling"):
        was, now = getattr(own, name), getattr(cut, name)
        rows.append((name, was, now, was != now))
    if own.fit == cut.fit == "resize":
        rows.append(("size", list(own.size), list(cut.size), own.size != cut.size))
    if own.fit == cut.fit == "crop" and own.spacing is not None and cut.spacing is not None:
        rows.append(("spacing", own.spacing, cut.spacing, abs(cut.spacing / own.spacing - 1) > _SAME_SPACING))
    other = [row[:3] for row in rows if row[3]]
    if other:
        raise UsageError(
            "E-STUDY-SLICES",
            file=model,
            found="slices of " + ", ".join(f"{name} {now}" for name, _, now in other),
            expected="slices as the model was made from: " + ", ".join(f"{name} {was}" for name, was, _ in other),
            fix="set " + " ".join(f"slices.{name}={was}" for name, was, _ in other) + ", or give another model",
        )


@dataclass(frozen=True)
class Past:
    """Whom a model was trained on: `subjects`, and in words what cannot be told."""

    subjects: frozenset[str]
    unknown: tuple[str, ...] = ()


def trained_on(folder: Path, datasets: Iterable[Path]) -> Past:
    """Return whom a given model was trained or chosen on, as far as its description and the datasets say.

    Parameters
    ----------
    datasets: raw datasets; those that a model names are looked for among them and beside them.
    """
    beside = list(datasets)
    if (folder / MODEL_FILE).is_file():
        model = read_harmonizer(folder)
        vendors = frozenset(name.strip().lower() for name in (*model.target, *model.sources))
        return _of_datasets(model.provenance.get("datasets"), beside, model.key, vendors)
    if _is_network(folder):
        return _of_datasets([folder.parent.name], beside)
    facts = read_segmenter(folder).provenance
    split = facts.get("split")
    parts = [split.get(name) for name in ("train", "validation")] if isinstance(split, Mapping) else [None]
    if all(isinstance(part, Mapping) and isinstance(part.get("subjects"), list) for part in parts):
        return Past(frozenset(str(name) for part in parts for name in part["subjects"]))  # type: ignore[index]
    return _of_datasets(facts.get("datasets"), beside)


def _of_datasets(names: Any, beside: Sequence[Path], key: str = "", vendors: frozenset[str] = frozenset()) -> Past:
    """Return who is in `imagesTr` of datasets; of some vendors only, where those are named."""
    if not isinstance(names, list) or not names:
        return Past(frozenset(), ("its datasets are not named",))
    subjects: set[str] = set()
    missing = []
    for name in map(str, names):
        places = [folder for folder in beside if folder.name == name] + [folder.parent / name for folder in beside]
        found = next((place for place in places if (place / CASES_FILE).is_file()), None)
        if found is None:
            missing.append(f"{name} is not there")
        else:
            subjects |= trained_in(found, key, vendors)
    return Past(frozenset(subjects), tuple(missing))


def trained_in(dataset: Path, key: str = "", vendors: frozenset[str] = frozenset()) -> set[str]:
    """Return the subjects of the training scans of a raw dataset; those without a subject are known by their case."""
    content = read_json(dataset / CASES_FILE)
    rows = content.get("cases", content) if isinstance(content, dict) else {}
    return {
        str(row.get("subject") or case)
        for case, row in rows.items()
        if isinstance(row, dict) and not row.get("test") and (not vendors or _value(row, key) in vendors)
    }


def _value(row: Mapping[str, Any], key: str) -> str:
    values = [row.get(part.strip()) for part in key.split("+")]
    return "+".join(f"{v:g}" if isinstance(v, float) else str(v).strip() for v in values).lower()


def refuse_known(subjects: Iterable[str], tested: Iterable[str], file: Path) -> None:
    """Raise CaseError when somebody who is tested on was trained on; `file` says who was."""
    both = sorted(set(subjects) & set(tested))
    if both:
        raise CaseError(
            "E-STUDY-SUBJECTS",
            file=file,
            found=f"{shorten(both)} among those trained on and tested on",
            expected="other patients to test on",
            fix="move all scans of a patient to one side, or correct `subject` in cases.json",
        )


def untold(config: HarmonizationConfig, datasets: Sequence[Path]) -> list[str]:
    """Return a warning for every given model of which nobody can tell whom it was trained on."""
    pasts = {name: (folder, trained_on(folder, datasets)) for name, folder in given_folders(config).items()}
    return [
        f"{name} ({folder}): it cannot be told whether patients who are tested on were trained on "
        f"({', '.join(past.unknown)})"
        for name, (folder, past) in pasts.items() if past.unknown
    ]  # fmt: skip
