"""A bank of domains from images on disk: one file that `domain_transfer` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.domain_bank import VERSION, Bank, learn, load_bank
from nnunet_spine_ext.augment.tissues import NNUNET14, TISSUES
from nnunet_spine_ext.core.cases import check_same_grid
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_text


def learn_bank(
    images: Sequence[str | Path],
    labels: Sequence[str | Path],
    output: str | Path,
    *,
    domain: str,
    classes: Mapping[int, str] | None = None,
) -> Bank:
    """Learn how bright each tissue is in a kind of scan, and add it to a bank.

    Parameters
    ----------
    images, labels: files of one domain, in the same order; NIfTI, MHA or NRRD.
    output: YAML file; domains that it already holds stay, one of the same name is replaced.
    domain: name of the kind of scan, for example "t2w-siemens".
    classes: tissue of each label id (`tissues.TISSUES`); None: the 14-class scheme. Label 0 is the background.

    Returns
    -------
    All domains of the file.

    Raises
    ------
    UsageError: lists of different length or none, an unknown tissue, a file in the place of `output` that is no bank,
        nothing to learn from the labels.
    CaseError: a file that cannot be read, a mask on another grid, intensities that are not finite.
    """
    if not images or len(images) != len(labels):
        found = f"{len(images)} images, {len(labels)} label maps"
        raise _refuse(output, found, "one label map per image", "pair them")
    known = dict(enumerate(NNUNET14)) if classes is None else {int(label): name for label, name in classes.items()}
    for name in known.values():
        if name not in TISSUES:
            raise _refuse("classes", f"tissue {name!r}", "a known tissue", nearest(name, TISSUES))
    learned = learn(_scans(images, labels), {label: name for label, name in known.items() if label != 0})
    if set(learned) <= {"background"}:
        raise _refuse(domain, "no labelled tissue of 50 voxels", f"labels among {sorted(known)}", "correct classes")
    domains: dict[str, Any] = {}
    if Path(output).is_file():
        domains = {name: {t: list(row) for t, row in tissues.items()} for name, tissues in load_bank(output).items()}
    write_text(output, _text({**domains, domain: learned}))
    return load_bank(output)


def _scans(
    images: Sequence[str | Path], labels: Sequence[str | Path]
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    for image_path, label_path in zip(images, labels, strict=True):
        image, mask = read_volume(image_path), read_volume(label_path)
        check_same_grid(image, mask, file=str(label_path), what="the mask")
        values = image.array.astype(np.float32)
        if not np.isfinite(values).all():
            raise CaseError(
                "E-AUG-BANK", file=image_path, found="NaN or infinity", expected="finite intensities", fix="repair it"
            )
        yield values, mask.array


def _text(domains: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return the file: one line per tissue."""
    lines = [
        "# Quantiles of intensities in units of the signal, learned from images.",
        f"version: {VERSION}",
        "domains:",
    ]
    for name, tissues in domains.items():
        lines.append(f"  {_quoted(name)}:")
        lines += [f"    {tissue}: [{', '.join(f'{v:g}' for v in row)}]" for tissue, row in sorted(tissues.items())]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refuse(where: str | Path, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-AUG-BANK", file=str(where), found=found, expected=expected, fix=fix)
