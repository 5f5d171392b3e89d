"""What the ids of masks to post-process mean: asked for, or told by the dataset.json beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.io import is_image, read_json
from nnunet_spine_ext.core.labels import SCHEMES, scheme
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.phase_options import bodies_of, schemes_with_bodies

_IGNORE = "ignore"


def scheme_of_masks(i: str | Path | Sequence[str | Path], asked: str | None) -> str:
    """Return the label scheme of the masks: the one asked for, else that of the dataset.json beside them.

    A dataset.json that says none, or ``custom``, is asked for the names of its classes: they may be those of a scheme.

    Raises
    ------
    UsageError: an unknown scheme, one without vertebral bodies, or none known; says which ones fit the first mask.
    """
    if asked is not None:
        scheme(asked)
    first = Path(i if isinstance(i, (str, Path)) else i[0])
    folder = first if first.is_dir() else first.parent
    beside = dataset_beside(i)
    name = asked or recorded_scheme(beside)
    usable = schemes_with_bodies()
    if asked is None and name not in SCHEMES and (named := _scheme_of_names(beside, usable)) is not None:
        return named
    if name in usable:
        return name
    found = f"the label scheme {name!r}" if name else "masks without a dataset.json that says their label scheme"
    fits = [] if name else _fitting(first, usable)
    raise UsageError(
        "E-POST-SCHEME",
        file=folder,
        found=found + (f" (the ids of the first one are known to {' and '.join(fits)})" if fits else ""),
        expected=f"--scheme {' or '.join(usable)}: classes with vertebral bodies, or whole vertebrae and a canal",
        fix=f"give --scheme {fits[0] if fits else 'SCHEME'}" if not name else "translate them: nnUNetv2_spine_labels",
    )


def check_level_sources(sources: Mapping[str, str | Path | None], levels_scheme: str) -> None:
    """Refuse a localizer or masks of levels whose dataset.json says another scheme, and a scheme without such masks.

    Classes would pass for levels: 10 is a body in one scheme, and T3 in another.

    Raises
    ------
    UsageError: one of them.
    """
    if sources.get("levels") is None and levels_scheme != "instances":
        raise UsageError(
            "E-CONFIG-IDLE",
            file="--levels-scheme",
            found=f"{levels_scheme}, and no masks of levels",
            expected="a scheme of what is given with --levels",
            fix="add --levels, or leave it out",
        )
    for option, expected in (("localizer", "instances"), ("levels", levels_scheme)):
        place = sources.get(option)
        recorded = None if place is None else recorded_scheme(dataset_beside(place))
        if place is not None and recorded in SCHEMES and recorded != expected:
            inside = Path(place) / "instances"
            raise UsageError(
                "E-POST-LEVELS",
                file=place,
                found=f"masks of the scheme {recorded}, as the dataset.json beside them says (--{option})",
                expected=f"masks of the scheme {expected}, which name levels",
                fix=f"give {inside}"
                if inside.is_dir()
                else "give numbered instances, or their scheme (--levels-scheme)",
            )


def dataset_beside(i: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """Return the dataset.json in the folder of the (first) mask; empty if there is none, or none that can be read."""
    first = Path(i if isinstance(i, (str, Path)) else i[0])
    path = (first if first.is_dir() else first.parent) / "dataset.json"
    try:
        content = read_json(path) if path.is_file() else None
    except CaseError:
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("labels"), dict) else {}


def recorded_scheme(dataset_json: Mapping[str, Any]) -> str | None:
    """Return the label scheme that a dataset.json says; None if it says none."""
    own = dataset_json.get("spine_ext")
    name = own.get("scheme") if isinstance(own, dict) else None
    return None if name is None else str(name)


def ignored_id(dataset_json: Mapping[str, Any]) -> int | None:
    """Return the id of the ignore label of a dataset; None if it has none."""
    key = dataset_json.get("labels", {}).get(_IGNORE)
    return key if isinstance(key, int) and not isinstance(key, bool) and key else None


def without_ignored(mask: Volume, ignored: int | None, file: str | Path) -> tuple[Volume, list[Problem]]:
    """Return a mask whose ignored voxels are background, and a warning with their number if there are any.

    In the scheme, the id of the ignore label may be that of a class: 4 is the cord of ``whole_vertebrae``.
    """
    where = mask.array == ignored if ignored is not None else np.zeros(0, dtype=bool)
    count = int(np.count_nonzero(where))
    if count == 0:
        return mask, []
    warning = Problem(
        "warning",
        "W-POST-IGNORED",
        str(file),
        f"{count} ignored voxels (id {ignored}, as the dataset.json beside the mask says)",
        "a class for every voxel",
        "they count as background, so what lies there is in no vertebra; label them if it should be",
    )
    return mask.with_array(np.where(where, mask.array.dtype.type(0), mask.array)), [warning]


def _scheme_of_names(dataset_json: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the scheme whose classes, vertebrae or bodies among them, have these names and ids; None: no scheme."""
    classes = dataset_json.get("labels", {}).items()
    labels = {key: str(name) for name, key in classes if isinstance(key, int) and key and name != _IGNORE}
    return next((n for n in names if bodies_of(n) & set(labels) and labels.items() <= SCHEMES[n].labels.items()), None)


def _fitting(first: Path, names: Sequence[str]) -> list[str]:
    """Return the schemes that know every id of the first mask, a vertebra's or body's among them."""
    from nnunet_spine_ext.check.images import inspect

    file = next((f for f in sorted(first.iterdir()) if is_image(f)), None) if first.is_dir() else first
    if file is None or not file.is_file():
        return []
    voxels = inspect(file, role="label").voxels
    ids = set() if voxels is None or voxels.ids is None else set(voxels.ids) - {0}
    return [name for name in names if ids & bodies_of(name) and ids <= set(SCHEMES[name].labels)]
