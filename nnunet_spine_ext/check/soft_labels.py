"""Soft labels of a raw dataset: one file per case that has any, on the grid of its image."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.cases import FILE_ENDING, check_same_grid
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import is_image
from nnunet_spine_ext.core.soft_labels import checked, fractions, overshoot, read_classes
from nnunet_spine_ext.core.volume import Volume

FOLDERS = ("softLabelsTr", "softLabelsTs")


def foreground_labels(description: Mapping[str, Any]) -> int:
    """Return how many classes a soft label has: the labels of dataset.json without background and ignore."""
    labels = description["labels"]
    return sum(name != "ignore" and number != 0 for name, number in labels.items())


def inspect_soft_labels(folder: Path, images: Mapping[str, Path], classes: int) -> Iterator[Problem]:
    """Yield what is wrong with the soft labels in a folder; none if there is no such folder.

    Parameters
    ----------
    images: first channel of every case of the same side.
    classes: number of classes; see `foreground_labels`.
    """
    given = sorted(path for path in folder.glob("*") if is_image(path) and not path.name.startswith("."))
    files = [path for path in given if path.name.endswith(FILE_ENDING)]
    for path in given:
        if not path.name.endswith(FILE_ENDING):
            found = "a soft label of another kind of file"
            expected = f"<case>{FILE_ENDING}, whatever kind the images are"
            yield Problem("error", "E-SOFT-SUFFIX", str(path), found, expected, "convert it: trainers do not see it")
    hard = []
    for path in files:
        image = images.get(path.name.removesuffix(FILE_ENDING))
        if image is None:
            yield Problem(
                "error", "E-PAIR-NOIMAGE", str(path), "a soft label without an image", "both", "add or remove one"
            )
            continue
        share = yield from _file(path, image, classes)
        if share == 0:
            hard.append(path.name)
    if hard and len(hard) == len(files):
        yield Problem(
            "warning",
            "W-SOFT-BINARY",
            str(folder),
            f"only 0 and 1 in all {len(files)} soft labels",
            "fractions at the borders",
            "labels that were thresholded on the way teach nothing that hard ones do not: make them again",
        )
    lacking = sorted(set(images) - {path.name.removesuffix(FILE_ENDING) for path in files})
    if files and lacking:
        yield Problem(
            "warning",
            "W-SOFT-LACKING",
            str(folder),
            f"no soft label for {len(lacking)} of {len(images)} cases ({', '.join(lacking[:5])}"
            f"{', …' if len(lacking) > 5 else ''})",
            "a soft label for every case",
            "their hard labels are used; add the files if they exist",
        )


def _file(path: Path, image: Path, classes: int) -> Generator[Problem, None, float]:
    """Yield the problems of one file; return the share of its foreground that is soft, 1 where that is not known."""
    from nnunet_spine_ext.check.images import inspect

    try:
        stored, affine = read_classes(path)
        values, valid = checked(stored, path, classes)
        facts = inspect(image, role="training")
        if facts.ok:
            # A view of one number: the grid is what is compared.
            own = Volume(np.broadcast_to(np.uint8(0), stored.shape[1:]), affine)
            check_same_grid(facts.grid(), own, file=str(path), what=path.name)
    except CaseError as error:
        yield error.problem()
        return 1.0
    over = overshoot(stored)
    if over > 0:
        yield Problem(
            "warning",
            "W-SOFT-OVERSHOOT",
            str(path),
            f"values up to {1 + over:.3f}",
            "at most 1",
            "they count as 1; interpolation with splines does that",
        )
    if not valid.any() or not values.any():
        yield Problem(
            "warning",
            "W-SOFT-EMPTY",
            str(path),
            "no voxel that is known" if not valid.any() else "no structure",
            "some of it",
            "look at it; remove the file if it should not be trained on",
        )
        return 1.0
    return fractions(values, valid)
