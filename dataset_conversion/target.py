"""What a converter is to write, and where; how strictly it judges."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.core.cases import DatasetSpec
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.splits import MIN_SUBJECTS
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap


@dataclass(frozen=True)
class Target:
    """The dataset to write.

    Parameters
    ----------
    channel_names: nnU-Net's channel names in order.
    raw, preprocessed: nnUNet_raw and nnUNet_preprocessed.
    folds: folds of the grouped split.
    ignore: declare the ignore label even if every case has a mask.

    Raises
    ------
    UsageError: fewer than two folds.
    """

    dataset_id: int
    name: str
    channel_names: tuple[str, ...]
    raw: Path
    preprocessed: Path
    folds: int = 5
    overwrite: bool = False
    description: str = ""
    licence: str = ""
    ignore: bool = False

    def __post_init__(self) -> None:
        if self.folds < MIN_SUBJECTS:
            found = str(self.folds)
            raise UsageError("E-SPLIT-FOLDS", file="--folds", found=found, expected="2 or more", fix="5 is usual")

    def spec(self, labels: LabelMap | None, *, ignore: bool) -> DatasetSpec:
        """Return the dataset's description; without labels one that only has the right names."""
        known = labels or LabelMap({"any": 1}, {})
        return DatasetSpec(
            dataset_id=self.dataset_id,
            name=self.name,
            channel_names=dict(enumerate(self.channel_names)),
            labels=known.labels,
            scheme=known.scheme,
            sided_labels=known.sided_labels,
            ignore=ignore,
            description=self.description,
            licence=self.licence,
        )


@dataclass(frozen=True)
class Rules:
    """How strictly cases are judged.

    `resample`: None or "nearest"; `strict` makes every warning an error; `prefer`: None, or "sform" or "qform" for
    files whose two geometries disagree.
    """

    resample: str | None = None
    strict: bool = False
    prefer: Prefer | None = None


def nnunet_folders(raw: str | Path | None, preprocessed: str | Path | None) -> tuple[Path, Path]:
    """Return the raw and the preprocessed folder: those given, else those of nnU-Net's environment variables.

    Raises SetupError when neither says where.
    """
    chosen = []
    for value, variable, option in (
        (raw, "nnUNet_raw", "--raw"),
        (preprocessed, "nnUNet_preprocessed", "--preprocessed"),
    ):
        text = str(value) if value is not None else os.environ.get(variable, "")
        if not text:
            raise SetupError(
                "E-ENV-FOLDER",
                file=variable,
                found="the variable is not set",
                expected="nnU-Net's folder",
                fix=f"export {variable}=FOLDER, or give {option} FOLDER",
            )
        chosen.append(Path(text).expanduser())
    return chosen[0], chosen[1]
