"""The contact sheets of `nnUNetv2_spine_augment`: drawn, painted, written.

It is in this room because it shows what training does: input as nnU-Net hands it over, augmentation as the trainers
apply it (`on_device`), voxels beyond the image as they end up in a batch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.core.errors import EXIT_OK, UsageError
from nnunet_spine_ext.core.io import read_json, write_bytes, write_json, write_volume
from nnunet_spine_ext.core.partial import unwritable
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.render.png import encode_png
from nnunet_spine_ext.render.window import window
from nnunet_spine_ext.training.augment_choice import Choice, choose
from nnunet_spine_ext.training.augment_options import wrong_option
from nnunet_spine_ext.training.augment_plans import ChosenPlans
from nnunet_spine_ext.training.augment_record import Record, make_record, refuse_other_input
from nnunet_spine_ext.training.augment_sheet import Look, best_plane, best_position, cell, describe, page
from nnunet_spine_ext.training.network_input import NetworkInput, network_input
from nnunet_spine_ext.training.on_device import DeviceAugmentation
from nnunet_spine_ext.training.targets import Targets

__all__ = ["Sheet", "apply", "case_and_choice", "choose", "drawn", "look_at", "network_input", "replayed", "sheet_of"]


# What decides about volumes; how they are looked at does not.
_SAME = ("input", "augmentation", "seed", "epoch", "record")


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
        when = "at full strength" if facts.get("full_strength") else f"epoch {self.record['epoch']}"
        lines = [
            f"{source['case']}: {len(self.captions)} samples of {facts['source']} ({facts['hash']}), "
            f"seed {self.record['seed']}, {when}"
        ]
        if "plans" in source:
            seen = self.record["record"]["context"]
            size, spacing = (" x ".join(f"{n:g}" for n in seen[name]) for name in ("shape", "spacing"))
            lines.append(
                f"patches of {source['plans']['name']}: {size} voxels of {spacing} mm, in the order of training"
            )
        fired = Counter(item["name"] for s in self.record["record"]["samples"] for item in s["transforms"])
        lines.append("fired: " + (", ".join(f"{name} {n}" for name, n in sorted(fired.items())) or "nothing"))
        if source["labels"]:
            lines += _tissues(source["scheme"], source.get("tissues", "own"))
        if facts.get("config", {}).get("scanners") and any("CT" in how for how in source["normalization"]):
            lines.append("image: looks like a CT; the scanners are MR scanners, so no CT looks like these samples")
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


def case_and_choice(
    i: Sequence[str | Path],
    seg: str | Path | None,
    plans: ChosenPlans | None,
    *,
    spacing: Sequence[float] | None,
    scheme: str | None,
    **asked: Any,
) -> tuple[NetworkInput, Choice]:
    """Return the case, as the plans prepare it if there are some, and what is done to it; `asked`: see `choose`."""
    if plans is None:
        case = network_input(i, seg, spacing=spacing, scheme=scheme)
        return case, choose(case.context, **asked, tissues=case.tissues)
    from nnunet_spine_ext.training.augment_planned import planned_input, planned_training

    # A single transform and scanners have no schedule.
    steady = asked["profiles"] or asked["transform"]
    training = None if steady else planned_training(plans, other=asked["config"] is not None)
    case = planned_input(i, seg, plans, scheme=scheme)
    return case, choose(case.context, **asked, tissues=case.tissues, training=training)


def drawn(
    case: NetworkInput,
    choice: Choice,
    look: Look,
    out: Path | None,
    volumes: str | Path | None,
    *,
    n: int,
    seed: int,
    dry_run: bool,
) -> Sheet:
    """Draw `n` samples of a case and make the sheet of them; raises SetupError where it cannot be written."""
    with _one_thread():
        plans = [choice.plan(SampleKey(seed, case.name, choice.epoch, draw)) for draw in range(n)]
    return sheet_of(case, plans, look, make_record(case, choice, look, plans, seed), out, volumes, dry_run=dry_run)


def look_at(case: NetworkInput, plane: str | None, size: int, contours: bool, columns: int, own_window: bool) -> Look:
    """Return how a case is shown; `plane` None: the one that shows most of it.

    Raises UsageError for a plane across the only slice there is.
    """
    best = best_plane(case.grid)
    shown = plane or best
    if shown != best and 1 in case.grid.shape:
        raise wrong_option("--plane", shown, f"{best}: the image is one slice")
    position = best_position(case.grid, case.seen()[1], shown, case.facts["scheme"])
    return Look(shown, position, size, contours, columns, own_window)


def replayed(
    record: Record,
    i: Sequence[str | Path],
    seg: str | Path | None,
    out: Path | None,
    volumes: str | Path | None,
    *,
    plans: ChosenPlans | None,
    other_image: bool,
    dry_run: bool,
) -> Sheet:
    """Make the sheet of a record again; raises as `augment` does."""
    if plans is None:
        case = network_input(i, seg, spacing=record.spacing)
    else:
        from nnunet_spine_ext.training.augment_planned import planned_input

        case = planned_input(i, seg, plans)
    content = dict(record.content)
    if other_image:
        case_context: Context | None = case.context
        plane = record.look.plane
        count = case.grid.to("RAS").shape[("sagittal", "coronal", "axial").index(plane)]
        look = record.look if record.look.position < count else replace(record.look, position=count // 2)
        content["input"] = {"case": case.name, **case.facts}
    else:
        refuse_other_input(record, case)
        case_context, look = None, record.look
    return sheet_of(case, record.plans(case_context), look, content, out, volumes, dry_run=dry_run)


def sheet_of(
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
    seen, original = case.seen()
    limits = [window(channel.array) for channel in seen]
    cells = [cell(seen, original, "original", look, limits)]
    folder = None if volumes is None else Path(volumes)
    try:
        if folder is not None:
            _refuse_mixture(folder, case.name, record)
            # Before the volumes: after an interruption the same command may go on.
            write_json(_beside(folder, case.name), record)
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
    labels = case.beyond if case.labels is None else case.labels
    if labels is None:
        labels = np.zeros(case.images.shape[1:], np.int16)
    pipeline = Pipeline({"transforms": []}, plan.context)
    # The ignore label, too, which the context leaves out.
    highest = max((*plan.context.labels, int(labels.max())))
    device = DeviceAugmentation(pipeline, Targets(), highest=highest, masked=case.masked)
    images, target = device.apply(torch.from_numpy(case.images)[None], torch.from_numpy(labels)[None, None], plan)
    moved = target[0] if isinstance(target, list) else target
    return images[0].numpy(), None if case.labels is None else moved[0, 0].numpy().astype(np.int16)


def _beside(folder: Path, case: str) -> Path:
    return folder / f"{case}_aug.json"


def _refuse_mixture(folder: Path, case: str, record: dict[str, Any]) -> None:
    """Raise UsageError where volumes of this case lie that were made in another way: both would have the same names."""
    beside = _beside(folder, case)
    other = read_json(beside) if beside.is_file() else None
    ours = json.loads(json.dumps(record))
    same = isinstance(other, dict) and all(other.get(key) == ours.get(key) for key in _SAME)
    numbered = re.compile(rf"{re.escape(case)}_aug\d+_\d{{4}}\.nii\.gz")
    images = folder / "images"
    there = images.is_dir() and any(numbered.fullmatch(path.name) for path in images.iterdir())
    if not same and (other is not None or there):
        raise UsageError(
            "E-OUT-FILE",
            file=folder,
            found=f"volumes of {case} "
            + ("of another augmentation" if other is not None else "without a record beside them"),
            expected="a folder without any, or with those of the same record",
            fix="choose another folder for --volumes",
        )


def _write(case: NetworkInput, images: Array, labels: Array | None, folder: Path, number: int, count: int) -> None:
    name = f"{case.name}_aug{number:0{len(str(count))}d}"
    for channel, image in enumerate(images):
        write_volume(case.stored(image), folder / "images" / f"{name}_{channel:04d}.nii.gz")
    if labels is not None:
        write_volume(
            case.stored(labels.astype(np.uint8 if labels.max() < 256 else np.int16)),
            folder / "labels" / f"{name}.nii.gz",
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in another order differ in the last bit: one thread keeps pictures equal on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
