"""Matching on real volumes: six changes of intensity by four changes of the field of view, beside other tools.

    NNUNET_SPINE_TEST_DATA=DIR python benchmarks/matching.py --out DIR [--quick]

The reference is that of one volume; the same volume, changed, is to be brought back. The error is the root mean square
difference over the body, in standard deviations of the body: 0 is perfect, and what a bias field or noise did cannot be
undone by any map. Anchored matching is given masks of the data (the true ones, then dilated by two voxels and moved by
six, then those of an automatic method where the data has them). `make matching-peers` adds torchio and
intensity-normalization. `--quick` takes every second voxel in plane. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from nnunet_spine_ext.core.io import read_volume, write_json
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.body import body_mask
from nnunet_spine_ext.harmonize.curves import ALL, CaseFacts, channel_facts
from nnunet_spine_ext.harmonize.matching import MatchMethod, MatchSettings, match
from nnunet_spine_ext.harmonize.reference import ChannelReference, average_curves, reference_of
from nnunet_spine_ext.harmonize.structures import structure_ids, structure_masks

Masks = dict[str, Array]
VIEWS = ("full", "half", "crop", "air")
GOALS = {"body": (0.20, 0.20, 0.30, 0.20), "anchored, imperfect mask": (0.20,) * 4}
HARM, MILLISECONDS = 0.05, 60.0
PEERS = Path(__file__).resolve().parent.parent / ".oracles" / "matching" / "bin" / "python"
_SUBJECT = "sct-errsm/errsm_{}/t2/t2.nii.gz"
_CORD = "sct-errsm/errsm_{}/t2/t2_manual_segmentation.nii.gz"
_AUTOMATIC = "sct-errsm/errsm_{}/t2/t2_segmentation_PropSeg.nii.gz"


@dataclass
class Case:
    """A volume (PIR), masks of its structures, and those of an automatic method if there are any."""

    name: str
    image: Volume
    masks: Masks
    automatic: Masks
    step: int


def cases(data: Path, *, quick: bool) -> Iterator[Case]:
    """Yield the volumes; every second voxel of the large ones when `quick`."""
    lumbar = _read(data / "sct-tutorial/single_subject/data/t2_lumbar/t2_lumbar.nii.gz")
    yield _case("lumbar", lumbar, {"cord": _drawn_canal(lumbar)}, {}, quick=quick)
    for number in ("11", "18", "23"):
        image = _read(data / _SUBJECT.format(number))
        cord = {"cord": _read(data / _CORD.format(number)).array}
        found = data / _AUTOMATIC.format(number)
        automatic = {"cord": _read(found).array} if found.is_file() else {}
        yield _case(f"cervical {number}", image, cord, automatic, quick=quick)
    crop = data / "tptbox/sample_mri"
    labels = np.rint(_read(crop / "sub-mri_seg-subreg_label-6_msk.nii.gz").array).astype(int)
    masks = structure_masks(labels, structure_ids("spineps"))
    yield _case("thoracic crop", _read(crop / "sub-mri_label-6_T2w.nii.gz"), masks, {}, quick=False)


def _read(path: Path) -> Volume:
    volume = read_volume(path).to("PIR")
    return volume.with_array(volume.array.astype(np.float32))


def _drawn_canal(image: Volume) -> Array:
    """Draw the canal by hand: nothing is labelled in this volume. PIR, 1 mm."""
    mask = np.zeros(image.shape, np.float32)
    for j in range(image.shape[1]):
        front = int(np.interp(j, [0, 100, 200], [168, 170, 152]))
        mask[front : front + 20, j, 12:26] = 1
    return mask


def _case(name: str, image: Volume, masks: Masks, automatic: Masks, *, quick: bool) -> Case:
    step = 2 if quick else 1
    thin = (slice(None, None, step), slice(None, None, step), slice(None))
    affine = image.affine.copy()
    affine[:3, :2] *= step
    small = Volume(np.ascontiguousarray(image.array[thin]), affine)
    pick = [{n: (m[thin] > 0.5).astype(np.float32) for n, m in group.items()} for group in (masks, automatic)]
    return Case(name, small, pick[0], pick[1], step)


def changes(array: Array) -> dict[str, Array]:
    """Return the six changes of intensity."""
    rng = np.random.default_rng(1)
    top = float(np.quantile(array, 0.999))
    share = np.clip(array / top, 0, None)
    i, j = (np.linspace(-1, 1, n) for n in array.shape[:2])
    noise = rng.normal(0, 0.05 * top, (2, *array.shape))
    changed = {
        "none": array,
        "2.3 x + 40": 2.3 * array + 40,
        "gamma 0.7": share**0.7 * top,
        "gamma 1.4": share**1.4 * top,
        "bias 40 %": array * (1 + 0.4 * (0.6 * i[:, None, None] + 0.4 * j[None, :, None])),
        "Rician 5 %": np.hypot(array + noise[0], noise[1]),
    }
    return {name: values.astype(np.float32) for name, values in changed.items()}


def views(case: Case) -> dict[str, Callable[[Array], Array]]:
    """Return the four fields of view as functions of an array on the grid of the case; the last one adds air."""
    shape = case.image.shape
    spine = np.maximum.reduce(list(case.masks.values())) > 0.5
    rows = slice(int(0.2 * shape[1]), int(0.8 * shape[1]))
    inside = np.nonzero(spine[:, rows])
    front, back = 25 // case.step, 20 // case.step
    box = (
        slice(max(0, int(inside[0].min()) - front), int(inside[0].max()) + back),
        rows,
        slice(max(0, int(inside[2].min()) - 8), int(inside[2].max()) + 9),
    )
    if case.name == "thoracic crop":
        box = tuple(slice(int(0.15 * n), int(0.85 * n)) for n in shape)  # type: ignore[assignment]

    def with_air(array: Array) -> Array:
        wide = np.zeros((2 * shape[0], *shape[1:]), np.float32)
        wide[shape[0] // 2 : shape[0] // 2 + shape[0]] = array
        return wide

    return {
        "full": lambda array: array,
        "half": lambda array: array[:, shape[1] // 2 :],
        "crop": lambda array: array[box],
        "air": with_air,
    }


def noisy_air(case: Case, body: Array) -> Array:
    """Return the image in twice as wide a field of view, of air as noisy as its own."""
    air = case.image.array[~body]
    sigma = float(np.median(air[air > 0])) / 1.18 if np.count_nonzero(air) > 1000 else 1.0
    shape = (2 * case.image.shape[0], *case.image.shape[1:])
    wide = np.hypot(*np.random.default_rng(0).normal(0, sigma, (2, *shape))).astype(np.float32)
    start = case.image.shape[0] // 2
    wide[start : start + case.image.shape[0]] = case.image.array
    return wide


def imperfect(masks: Masks, step: int) -> Masks:
    """Return masks dilated by two voxels of the original and moved forward by six."""
    out = {}
    for name, mask in masks.items():
        grown = binary_dilation(mask > 0.5, iterations=2 // step).astype(np.float32)
        moved = np.zeros_like(grown)
        moved[6 // step :] = grown[: -(6 // step)]
        out[name] = moved
    return out


def reference_from(case: Case) -> ChannelReference:
    facts = CaseFacts((channel_facts(case.image, case.masks, samples=ALL),), (1.0, 1.0, 1.0))
    found = reference_of({"spine_ext": {"reference": {"0": average_curves({"a": facts})}}}, [0])
    if found is None:
        raise SystemExit("no reference")
    return found.channels[0]


def scikit(image: Array, original: Array) -> Array:
    from skimage.exposure import match_histograms

    return np.asarray(match_histograms(image, original))


def simpleitk(image: Array, original: Array) -> Array:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    a, b = (sitk.GetImageFromArray(np.ascontiguousarray(array, dtype=np.float32)) for array in (image, original))
    return sitk.GetArrayFromImage(sitk.HistogramMatching(a, b, 1024, 15, True))


def z_score(image: Array, original: Array) -> Array:
    return (image - image.mean()) / image.std() * original.std() + original.mean()


def measure(case: Case, rows: dict[tuple[str, str, str], list[float]], per_volume: dict[str, Any]) -> None:
    """Add the errors of every method, change and view of one case."""
    reference = reference_from(case)
    body = body_mask(case.image)
    original = case.image.array
    for view, cut in views(case).items():
        truth = noisy_air(case, body) if view == "air" else cut(original)
        inside = cut(body.astype(np.float32)) > 0
        masks = {name: cut(mask) for name, mask in case.masks.items()}
        automatic = {name: cut(mask) for name, mask in case.automatic.items()}
        wrong = imperfect(masks, case.step)
        for change, array in changes(truth).items():
            image = Volume(np.ascontiguousarray(array), case.image.affine)

            def ours(method: MatchMethod, posteriors: Masks | None = None, image: Volume = image) -> Array:
                settings = MatchSettings(method, skip_in_distribution=False)
                return match(image, reference, settings, posteriors=posteriors).image.array

            matched = ours("body")
            results = {
                "z-score": z_score(array, original),
                "scikit-image": scikit(array, original),
                "SimpleITK": simpleitk(array, original),
                "cdf": ours("cdf"),
                "nyul": ours("nyul"),
                "body": matched,
                "body, own z-score": z_score(matched, original),
                "anchored, true mask": ours("anchored", masks),
                "anchored, imperfect mask": ours("anchored", wrong),
            }
            if automatic:
                results["anchored, automatic mask (2 volumes)"] = ours("anchored", automatic)
            if reference.normalisation is not None:
                mean, sd = reference.normalisation
                results["body, training z-score"] = (matched - mean) / sd * original.std() + original.mean()
            for name, result in results.items():
                error = float(np.sqrt(((result - truth)[inside] ** 2).mean()) / truth[inside].std())
                rows[name, view, change].append(error)
                per_volume.setdefault(name, {}).setdefault(case.name, {}).setdefault(view, []).append(error)


def timings(lumbar: Case, out: Path) -> dict[str, float]:
    """Return CPU milliseconds per volume of 20 x 320 x 320, the best of five after a first one."""
    tiled = np.tile(lumbar.image.array, (3, 4, 1))[:320, :320, :20]
    original = np.ascontiguousarray(tiled.transpose(2, 0, 1))
    case = Case("timing", Volume(original, np.diag([3.5, 0.9, 0.9, 1.0])), {}, {}, 1)
    reference = reference_from(case)
    image = case.image.with_array((original**0.8).astype(np.float32))
    calls: dict[str, Callable[[], Any]] = {
        name: (lambda name=name: match(image, reference, MatchSettings(name, skip_in_distribution=False)))
        for name in ("body", "nyul", "cdf")
    }
    calls["scikit-image"] = lambda: scikit(image.array, original)
    calls["SimpleITK"] = lambda: simpleitk(image.array, original)
    found = {}
    for name, call in calls.items():
        spent = []
        for _ in range(6):
            start = time.process_time()
            call()
            spent.append(time.process_time() - start)
        found[name] = 1000 * min(spent[1:])
    if PEERS.is_file():
        np.savez(out / "timing.npz", image=image.array, original=original)
        script = Path(__file__).with_name("matching_peers.py")
        command = [str(PEERS), "-W", "ignore", str(script), str(out / "timing.npz")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found |= json.loads(done.stdout.splitlines()[-1])
        else:
            print(f"{PEERS} failed:\n{done.stderr[-600:]}")
    else:
        print("torchio and intensity-normalization are left out: make matching-peers installs them")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/matching"))
    parser.add_argument("--quick", action="store_true", help="every second voxel in plane")
    options = parser.parse_args()
    data = os.environ.get("NNUNET_SPINE_TEST_DATA")
    if not data:
        sys.exit("NNUNET_SPINE_TEST_DATA is not set: no real images here")
    options.out.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    per_volume: dict[str, Any] = {}
    spent: dict[str, float] = {}
    for case in cases(Path(data), quick=options.quick):
        if case.name == "lumbar":
            spent = timings(case, options.out)
        measure(case, rows, per_volume)
        print(f"{case.name}: {case.image.shape}, measured", flush=True)
    names = list(dict.fromkeys(name for name, _, _ in rows))
    mean = {n: [float(np.mean([e for (m, v, _), es in rows.items() if (m, v) == (n, view) for e in es]))
                for view in VIEWS] for n in names}  # fmt: skip
    harm = {n: [float(np.mean(rows[n, view, "none"])) for view in VIEWS] for n in names}
    print(f"{'':38}{'mean over six changes':32}no change")
    for name in names:
        both = ("".join(f"{e:8.3f}" for e in values) for values in (mean[name], harm[name]))
        print(f"{name:38}{'  '.join(both)}")
    for name, milliseconds in spent.items():
        print(f"{name:24}{milliseconds:8.0f} ms{milliseconds / spent['body']:8.1f} times body")
    volumes = {
        n: {c: [round(float(np.mean(v[w])), 3) for w in VIEWS] for c, v in t.items()} for n, t in per_volume.items()
    }
    by_change = {f"{n} | {c}": [round(float(np.mean(rows[n, v, c])), 3) for v in VIEWS] for n, _, c in rows}
    write_json(options.out / "matching.json", {
        "quick": options.quick, "views": VIEWS, "mean": mean, "no_change": harm, "volumes": volumes,
        "by_change": by_change, "milliseconds": spent, "goals": GOALS,
    })  # fmt: skip
    print(summary(mean, harm, spent))


def summary(mean: dict[str, list[float]], harm: dict[str, list[float]], spent: dict[str, float]) -> str:
    missed = [
        f"{name} {view} {found:.3f} > {goal}"
        for name, goals in GOALS.items()
        for view, found, goal in zip(VIEWS, mean[name], goals, strict=True)
        if found > goal
    ]
    missed += [
        f"no change, {name} {view} {found:.3f} > {HARM}"
        for name in GOALS
        for view, found in zip(VIEWS, harm[name], strict=True)
        if found > HARM
    ]
    missed += [f"body {spent['body']:.0f} ms > {MILLISECONDS:.0f}"] if spent["body"] > MILLISECONDS else []
    total = 2 * len(VIEWS) * len(GOALS) + 1
    return f"matching: {total - len(missed)} of {total} goals reached" + (
        f"; missed: {'; '.join(missed)}" if missed else ""
    )


if __name__ == "__main__":
    main()
