"""Splits that keep a subject on one side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json

_STOCK = "or train with nnU-Net's own splits: nnUNetv2_spine_plan … --set train.splits=stock"


def subjects_of(folder: str | Path) -> dict[str, str]:
    """Return the subject of each case from `cases.json` of a preprocessed dataset folder.

    Raises SetupError when there is none.
    """
    path = Path(folder) / "cases.json"
    if not path.is_file():
        raise SetupError(
            "E-SPLIT-CASES",
            file=path,
            found="no such file",
            expected="a table that says which subject each case belongs to",
            fix=f"copy it from the raw dataset (nnUNetv2_spine_plan does), convert again, {_STOCK}",
        )
    return {case: str(row["subject"]) for case, row in read_json(path)["cases"].items()}


def grouped_fold(folder: str | Path, fold: int | str, available: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return training and validation cases of a fold.

    Parameters
    ----------
    folder: `nnUNet_preprocessed/<dataset>`, with `cases.json` and `splits_final.json`.
    fold: number of the split, or ``"all"`` (every labelled and unlabelled case on both sides, as in nnU-Net).
    available: cases that are preprocessed.

    Raises
    ------
    SetupError: no splits, no such fold, a case that is not in cases.json or not preprocessed, a subject on both sides.
    """
    folder = Path(folder)
    subject_of = subjects_of(folder)
    if fold == "all":
        _refuse_unknown(folder / "cases.json", available, subject_of)
        return sorted(available), sorted(available)
    path = folder / "splits_final.json"
    if not path.is_file():
        raise SetupError(
            "E-SPLIT-FILE",
            file=path,
            found="no such file",
            expected="splits grouped by subject",
            fix=f"copy it from the raw dataset's folder, train the fold all, {_STOCK}",
        )
    splits = read_json(path)
    if not 0 <= int(fold) < len(splits):
        raise SetupError(
            "E-SPLIT-FOLD",
            file=path,
            found=f"{len(splits)} folds",
            expected=f"a fold {fold}",
            fix=f"train one of the folds 0 to {len(splits) - 1} or 'all'",
        )
    train, validation = list(splits[int(fold)]["train"]), list(splits[int(fold)]["val"])
    _refuse_unknown(folder / "cases.json", [*train, *validation], subject_of)
    missing = sorted({*train, *validation} - set(available))
    if missing:
        raise SetupError(
            "E-SPLIT-CASE",
            file=path,
            found=f"cases that are not preprocessed: {', '.join(missing[:8])}",
            expected="cases of this dataset",
            fix="run nnUNetv2_preprocess or correct the splits",
        )
    refuse_leaks(path, train, validation, subject_of)
    return train, validation


def refuse_leaks(path: Path, train: Sequence[str], validation: Sequence[str], subject_of: Mapping[str, str]) -> None:
    """Raise SetupError naming subjects (and their cases) that are on both sides of a split."""
    both = {subject_of[c] for c in train} & {subject_of[c] for c in validation}
    if both:
        named = [
            f"{s} ({', '.join(sorted(c for c in {*train, *validation} if subject_of[c] == s)[:4])})"
            for s in sorted(both)[:6]
        ]
        raise SetupError(
            "E-SPLIT-LEAK",
            file=path,
            found=f"subjects in training and validation: {'; '.join(named)}",
            expected="each subject on one side",
            fix="delete splits_final.json in the preprocessed folder and copy the grouped one of the raw folder",
        )


def _refuse_unknown(path: Path, cases: Sequence[str], subject_of: Mapping[str, str]) -> None:
    unknown = sorted(set(cases) - set(subject_of))
    if unknown:
        raise SetupError(
            "E-SPLIT-CASE",
            file=path,
            found=f"no entry for {', '.join(unknown[:8])}",
            expected="the subject of every case",
            fix="add the cases to cases.json or convert the dataset again",
        )
