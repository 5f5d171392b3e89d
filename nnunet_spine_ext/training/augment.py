"""`nnUNetv2_spine_augment`: contact sheets of what the network will see, their replay, lists, imports.

It is in this room because it shows what training does: input as nnU-Net hands it over, augmentation as the trainers
apply it (`on_device`), voxels beyond the image as they end up in a batch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import EXIT_OK, UsageError
from nnunet_spine_ext.core.io import write_bytes, write_json, write_volume
from nnunet_spine_ext.core.partial import unwritable
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.render.png import encode_png
from nnunet_spine_ext.render.slices import PLANES
from nnunet_spine_ext.render.window import window
from nnunet_spine_ext.training.augment_choice import choose
from nnunet_spine_ext.training.augment_lists import Converted, Listing, converted, listing_of_all
from nnunet_spine_ext.training.augment_record import Record, is_record, make_record, read_record, refuse_other_input
from nnunet_spine_ext.training.augment_sheet import Look, best_plane, best_position, cell, describe, page
from nnunet_spine_ext.training.network_input import NetworkInput, network_input
from nnunet_spine_ext.training.on_device import DeviceAugmentation
from nnunet_spine_ext.training.targets import Targets

MOST = 400
SAMPLES = 16
_SIZE = 320
_PIXELS = (64, 2048)


@dataclass(frozen=True)
class Sheet:
    """What was made: `png` and `json` (None in a dry run), `captions` per sample, `record` as in the file."""

    record: dict[str, Any]
    captions: tuple[str, ...]
    png: Path | None = None
    json: Path | None = None
    volumes: Path | None = None

    exit_code = EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        files = {name: None if value is None else str(value) for name, value in self._files()}
        return {**files, "captions": list(self.captions), "record": self.record}

    def render(self) -> str:
        """Return what fired how often, and where it is to be seen."""
        facts, source = self.record["augmentation"], self.record["input"]
        lines = [
            f"{source['case']}: {len(self.captions)} samples of {facts['source']} ({facts['hash']}), "
            f"seed {self.record['seed']}, epoch {self.record['epoch']}"
        ]
        fired = Counter(item["name"] for s in self.record["record"]["samples"] for item in s["transforms"])
        lines.append("fired: " + (", ".join(f"{name} {n}" for name, n in sorted(fired.items())) or "nothing"))
        if source["labels"]:
            lines += _tissues(source["scheme"], source.get("tissues", "own"))
        if self.png is None:
            lines += [f"  {number:3} {caption}" for number, caption in enumerate(self.captions, start=1)]
        lines += [f"{name:8}{value}" for name, value in self._files() if value is not None]
        return "\n".join(lines)

    def _files(self) -> tuple[tuple[str, Path | None], ...]:
        return ("png", self.png), ("json", self.json), ("volumes", self.volumes)


def _tissues(scheme: str, known: str) -> list[str]:
    """Return the line that says why labels have no tissues, or where these come from; none where all is as usual."""
    if known == "translated":
        return [
            f"labels: tissues of {scheme} by its translation into nnunet14; a training takes them from the names in "
            "its dataset.json, or from classes in its configuration"
        ]
    if known == "own":
        return []
    of = "no known scheme" if scheme in ("", "custom") else f"the scheme {scheme}"
    return [f"labels: of {of}, so nothing is known of tissues (--scheme NAME)"]


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
        return listing_of_all()
    if import_file is not None:
        return converted(import_file, o, spacing, dry_run=dry_run)
    out = _output(o, dry_run)
    if replay is not None:
        said = {
            **{"--config": config, "--profile": profile, "--transform": transform, "--set": assignments},
            **{"--strength": strength != 1, "--epoch": epoch is not None, "--n": n != SAMPLES, "--seed": seed != 0},
            **{"--spacing": spacing, "--scheme": scheme, "--plane": plane, "--size": size != _SIZE},
            **{"--columns": columns, "--no-contours": not contours, "--own-window": own_window},
        }
        _refuse_beside_replay(said)
        return _replayed(read_record(replay), i, seg, out, volumes, other_image=other_image, dry_run=dry_run)
    _check(n, size, columns, plane)
    case = network_input(i, seg, spacing=spacing, scheme=scheme)
    choice = choose(
        case.context,
        config=config,
        profiles=profile,
        transform=transform,
        assignments=assignments,
        strength=strength,
        epoch=epoch,
        tissues=case.tissues,
    )
    look = _look(case, plane, size, contours, columns, own_window)
    with _one_thread():
        plans = [choice.plan(SampleKey(seed, case.name, choice.epoch, draw)) for draw in range(n)]
    record = make_record(case, choice, look, plans, seed)
    return _sheet(case, plans, look, record, out, volumes, dry_run=dry_run)


def _look(case: NetworkInput, plane: str | None, size: int, contours: bool, columns: int, own_window: bool) -> Look:
    shown = plane or best_plane(case.grid)
    labels = None if case.labels is None else case.volume(case.labels)
    position = best_position(case.grid, labels, shown, case.facts["scheme"])
    return Look(shown, position, size, contours, columns, own_window)


def _replayed(
    record: Record,
    i: Sequence[str | Path],
    seg: str | Path | None,
    out: Path | None,
    volumes: str | Path | None,
    *,
    other_image: bool,
    dry_run: bool,
) -> Sheet:
    case = network_input(i, seg, spacing=record.spacing)
    content = dict(record.content)
    if other_image:
        case_context: Context | None = case.context
        plane = record.look.plane
        count = case.grid.to("RAS").shape[("sagittal", "coronal", "axial").index(plane)]
        look = record.look if record.look.position < count else _moved(record.look, count // 2)
        content["input"] = {"case": case.name, **case.facts}
    else:
        refuse_other_input(record, case)
        case_context, look = None, record.look
    return _sheet(case, record.plans(case_context), look, content, out, volumes, dry_run=dry_run)


def _moved(look: Look, position: int) -> Look:
    return Look(look.plane, position, look.size, look.contours, look.columns, look.own_window)


def _sheet(
    case: NetworkInput,
    plans: Sequence[Plan],
    look: Look,
    record: dict[str, Any],
    out: Path | None,
    volumes: str | Path | None,
    *,
    dry_run: bool,
) -> Sheet:
    """Make the pictures, sample by sample, and write everything."""
    said = [describe(plan.samples[0]) for plan in plans]
    scanners = record.get("scanners")
    captions = tuple(map("{}: {}".format, scanners, said) if scanners else said)
    if dry_run or out is None:
        return Sheet(record, captions)
    limits = [window(channel) for channel in case.images]
    original = None if case.labels is None else case.volume(case.labels)
    cells = [cell([case.volume(c) for c in case.images], original, "original", look, limits)]
    folder = None if volumes is None else Path(volumes)
    try:
        with _one_thread():
            for number, plan in enumerate(plans, start=1):
                images, labels = apply(case, plan)
                mask = None if labels is None else case.volume(labels)
                caption = f"{number}: {captions[number - 1]}"
                cells.append(cell([case.volume(c) for c in images], mask, caption, look, limits))
                if folder is not None:
                    _write(case, images, labels, folder, number, len(plans))
        write_bytes(out, encode_png(page(cells, look)))
        write_json(out.with_suffix(".json"), record)
    except OSError as error:
        raise unwritable(out if folder is None else folder, error, "name a place that can be written") from error
    return Sheet(record, captions, out, out.with_suffix(".json"), folder)


def apply(case: NetworkInput, plan: Plan) -> tuple[Array, Array | None]:
    """Return what a plan makes of a case: images (C, …) float32 and labels (…) int16, as the network gets them."""
    labels = np.zeros(case.images.shape[1:], np.int16) if case.labels is None else case.labels
    pipeline = Pipeline({"transforms": []}, plan.context)
    device = DeviceAugmentation(pipeline, Targets(), highest=max(plan.context.labels))
    images, target = device.apply(torch.from_numpy(case.images)[None], torch.from_numpy(labels)[None, None], plan)
    moved = target[0] if isinstance(target, list) else target
    return images[0].numpy(), None if case.labels is None else moved[0, 0].numpy().astype(np.int16)


def _write(case: NetworkInput, images: Array, labels: Array | None, folder: Path, number: int, count: int) -> None:
    name = f"{case.name}_aug{number:0{len(str(count))}d}"
    for channel, image in enumerate(images):
        write_volume(case.stored(image), folder / "images" / f"{name}_{channel:04d}.nii.gz")
    if labels is not None:
        write_volume(
            case.stored(labels.astype(np.uint8 if labels.max() < 256 else np.int16)),
            folder / "labels" / f"{name}.nii.gz",
        )


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
        raise _refuse("-o", str(out), "a name ending in .png")
    beside = out.with_suffix(".json")
    found = None
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
        raise _refuse(" ".join(given), "--replay beside it", "either of the two: a record says all of it")


def _check(n: int, size: int, columns: int, plane: str | None) -> None:
    if not 1 <= n <= MOST:
        raise _refuse("--n", str(n), f"1 to {MOST}")
    if not _PIXELS[0] <= size <= _PIXELS[1]:
        raise _refuse("--size", str(size), f"{_PIXELS[0]} to {_PIXELS[1]} pixels")
    if columns < 0:
        raise _refuse("--columns", str(columns), "0 or more")
    if plane is not None and plane not in PLANES:
        raise _refuse("--plane", repr(plane), nearest(plane, PLANES))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in another order differ in the last bit: one thread keeps pictures equal on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _refuse(where: str, found: str, expected: str) -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=where, found=found, expected=expected, fix="correct the option")
