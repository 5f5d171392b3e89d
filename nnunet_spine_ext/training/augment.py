"""`nnUNetv2_spine_augment`: contact sheets of what the network will see, their replay, lists, imports.

What is wrong with the options is said before PyTorch is loaded; the sheets are made in `augment_making`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import scheme as scheme_named
from nnunet_spine_ext.core.partial import unwritable
from nnunet_spine_ext.render.slices import PLANES
from nnunet_spine_ext.training.augment_options import check_choice, check_files, wrong_option
from nnunet_spine_ext.training.augment_plans import ChosenPlans, check_plans

if TYPE_CHECKING:
    from nnunet_spine_ext.training.augment_lists import Converted, Listing
    from nnunet_spine_ext.training.augment_making import Sheet

MOST = 400
SAMPLES = 16
_SIZE = 320
_PIXELS = (64, 2048)


def augment(
    i: Sequence[str | Path] = (),
    seg: str | Path | None = None,
    *,
    config: str | Path | None = None,
    profile: Sequence[str] = (),
    transform: str | None = None,
    assignments: Sequence[str] = (),
    strength: float = 1.0,
    epoch: int | None = None,
    n: int = SAMPLES,
    seed: int = 0,
    spacing: Sequence[float] | None = None,
    scheme: str | None = None,
    plans: str | Path | None = None,
    c: str | None = None,
    plane: str | None = None,
    size: int = _SIZE,
    columns: int = 0,
    contours: bool = True,
    own_window: bool = False,
    o: str | Path | None = None,
    volumes: str | Path | None = None,
    replay: str | Path | None = None,
    other_image: bool = False,
    import_file: str | Path | None = None,
    listing: bool = False,
    dry_run: bool = False,
) -> Sheet | Listing | Converted:
    """Show what augmentation makes of an image, as the trainers apply it.

    Parameters
    ----------
    i: image files, one per channel. seg: the mask, for what depends on labels, and for contours.
    config, profile, transform, assignments, strength, epoch: which augmentation; see `augment_choice.choose`.
    n: number of samples. seed: of the training; what is drawn also depends on the name of the image and on the epoch.
    spacing, scheme: see `network_input`.
    plans: whose patches are shown, and whose augmentation unless another is asked for. c: their configuration.
    plane: ``sagittal``, ``coronal`` or ``axial``; None: the one that shows most of the spine. size: pixels of a
        picture's longer side. columns: of the page; 0: as fits. contours: draw labels. own_window: grey levels of each
        picture for itself; without, all have those of the original.
    o: the .png; a .json of the same name gets the record. volumes: folder for images and masks as NIfTI.
    replay: a record: the same samples again, and no option beside it that it has. other_image: do so to files that it
        was not made of.
    import_file: a JSON configuration of SmaugLab or AugLab to convert; `o` is then the .yaml, None only reports.
    listing: list transforms, presets and scanners. dry_run: check everything, draw, and write nothing.

    Raises
    ------
    UsageError: options that do not go together, unknown names, impossible values, a record that does not fit.
    NoInputError: an image or a mask that cannot be used. SetupError: a place that cannot be written.
    """
    if listing:
        from nnunet_spine_ext.training.augment_lists import listing_of_all

        return listing_of_all()
    if import_file is not None:
        return _imported(import_file, o, spacing, dry_run=dry_run)
    out = _output(o, dry_run)
    check_files([*i, *([] if seg is None else [seg])], "an image file")
    planned = check_plans(plans, c, spacing=spacing, other=bool(replay or config or profile or transform))
    if replay is not None:
        said = {
            **{"--config": config, "--profile": profile, "--transform": transform, "--set": assignments},
            **{"--strength": strength != 1, "--epoch": epoch is not None, "--n": n != SAMPLES, "--seed": seed != 0},
            **{"--spacing": spacing, "--scheme": scheme, "--plane": plane, "--size": size != _SIZE},
            **{"--columns": columns, "--no-contours": not contours, "--own-window": own_window},
        }
        _refuse_beside_replay(said)
        return _again(replay, i, seg, out, volumes, planned, other_image=other_image, dry_run=dry_run)
    _check(n, size, columns, plane, scheme)
    asked: dict[str, Any] = {"config": config, "profiles": profile, "transform": transform, "assignments": assignments}
    asked |= {"strength": strength, "epoch": epoch}
    check_choice(**asked)
    # From here on PyTorch is needed, which takes seconds to load.
    from nnunet_spine_ext.training.augment_making import case_and_choice, drawn, look_at

    case, choice = case_and_choice(i, seg, planned, spacing=spacing, scheme=scheme, **asked)
    look = look_at(case, plane, size, contours, columns, own_window)
    return drawn(case, choice, look, out, volumes, n=n, seed=seed, dry_run=dry_run)


def _imported(
    import_file: str | Path, o: str | Path | None, spacing: Sequence[float] | None, *, dry_run: bool
) -> Converted:
    if not Path(import_file).exists():
        expected, fix = "a JSON file of SmaugLab or AugLab", "correct the path or the file"
        raise UsageError("E-AUG-IMPORT-READ", file=import_file, found="no such file", expected=expected, fix=fix)
    from nnunet_spine_ext.training.augment_lists import converted

    return converted(import_file, o, spacing, dry_run=dry_run)


def _again(
    replay: str | Path,
    i: Sequence[str | Path],
    seg: str | Path | None,
    out: Path | None,
    volumes: str | Path | None,
    planned: ChosenPlans | None,
    *,
    other_image: bool,
    dry_run: bool,
) -> Sheet:
    if not Path(replay).exists():
        expected, fix = "a record, as written beside the pictures", "check the path and its spelling"
        raise UsageError("E-AUG-RECORD", file=replay, found="no such file", expected=expected, fix=fix)
    from nnunet_spine_ext.training.augment_making import replayed
    from nnunet_spine_ext.training.augment_record import read_record

    record = read_record(replay)
    return replayed(record, i, seg, out, volumes, plans=planned, other_image=other_image, dry_run=dry_run)


def _output(o: str | Path | None, dry_run: bool) -> Path | None:
    """Return where the picture goes; refuse a place that cannot be written before anything is computed."""
    if dry_run:
        return None
    if o is None:
        raise UsageError(
            "E-CONFIG-VALUE",
            file="-o",
            found="no output",
            expected="a .png for the pictures (or --dry-run, --list, --import)",
            fix="give -o grid.png",
        )
    out = Path(o)
    if out.suffix.lower() != ".png":
        raise wrong_option("-o", str(out), "a name ending in .png")
    beside = out.with_suffix(".json")
    found = None
    if beside.exists():
        from nnunet_spine_ext.training.augment_record import is_record
    if out.is_dir():
        found = "a folder"
    elif beside.exists() and not is_record(beside):
        found = "a file that is no record of a contact sheet"
    elif out.exists() and not beside.exists():
        found = "a picture without the record of a contact sheet"
    if found is not None:
        raise UsageError(
            "E-OUT-FILE",
            file=beside if beside.exists() and not out.is_dir() else out,
            found=found,
            expected="a name that is free, or an earlier sheet",
            fix="choose another name",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise PermissionError(13, os.strerror(13), str(out.parent))
    except OSError as error:
        raise unwritable(out.parent, error, "name a place that can be written") from error
    return out


def _refuse_beside_replay(said: Mapping[str, Any]) -> None:
    if given := [name for name, value in said.items() if value]:
        raise wrong_option(" ".join(given), "--replay beside it", "either of the two: a record says all of it")


def _check(n: int, size: int, columns: int, plane: str | None, scheme: str | None) -> None:
    if not 1 <= n <= MOST:
        raise wrong_option("--n", str(n), f"1 to {MOST}")
    if not _PIXELS[0] <= size <= _PIXELS[1]:
        raise wrong_option("--size", str(size), f"{_PIXELS[0]} to {_PIXELS[1]} pixels")
    if columns < 0:
        raise wrong_option("--columns", str(columns), "0 or more")
    if plane is not None and plane not in PLANES:
        raise wrong_option("--plane", repr(plane), "a plane of the body", nearest(plane, PLANES))
    if scheme is not None:
        scheme_named(scheme)
