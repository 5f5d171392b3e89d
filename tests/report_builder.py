"""Prediction folders for the tests of the report: small spines, good, warned, failed and hostile cases."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import sha256, write_json, write_text, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.evaluate.run import evaluate

EVIL = "<script>alert(1)<"
PATIENT = "Mustermann Max"


def spine(shift: int = 0) -> tuple[Volume, Volume, Volume]:
    """Image, 14-class mask and instances (L3, L4, L5 and discs) of 24 x 40 x 48 voxels, stored as LPS."""
    shape = (24, 40, 48)
    labels, instances = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    for level, vertebra in enumerate((24, 23, 22)):
        low = 3 + 15 * level + shift
        labels[6:18, 20:32, low : low + 10] = 10
        labels[10:14, 4:10, low : low + 8] = 3
        instances[6:18, 4:32, low : low + 10] = vertebra
        labels[6:18, 20:32, low + 10 : low + 14] = 14
        instances[6:18, 20:32, low + 10 : low + 14] = 100 + vertebra - 1
    instances[labels == 0] = 0
    labels[9:15, 11:18] = 12
    labels[11:13, 13:16] = 11
    image = np.random.default_rng(0).normal(100, 20, shape) + 30.0 * labels
    affine = np.diag([2.0, 1.5, 2.0, 1.0])
    volumes = [Volume(array, affine).to("LPS") for array in (image.astype(np.int16), labels, instances)]
    return volumes[0], volumes[1], volumes[2]


def journal_line(case: str, image: Path | None = None, **facts: Any) -> dict[str, Any]:
    inputs = [{"file": image.name, "sha256": sha256(image)}] if image else []
    return {"case": case, "status": "done", "seconds": 1.5, "warnings": [], "error": None, "input": inputs} | facts


def make_folder(base: Path) -> Path:
    """Write a prediction folder: two good cases (one warned), one failed, one whose name and texts are hostile."""
    images, out = base / PATIENT / "images", base / PATIENT / "out"
    image, labels, instances = spine()
    lines = []
    for case in ("alpha", "beta"):
        write_volume(image, images / f"{case}_0000.nii.gz")
        write_volume(labels, out / f"{case}.nii.gz")
        lines.append(journal_line(case, images / f"{case}_0000.nii.gz"))
    write_volume(instances, out / "instances" / "alpha.nii.gz")
    problem = {"severity": "warning", "code": "W-GEOM-NOCODE", "file": str(images / "beta_0000.nii.gz")}
    problem |= {"found": f"codes 0 in {images}/beta_0000.nii.gz", "expected": "codes", "fix": "look <b>twice</b>"}
    lines[1]["warnings"] = [problem]
    error = problem | {"severity": "error", "code": "E-IN-TRUNCATED", "fix": "copy it again"}
    lines.append(journal_line("gamma", status="failed", error=error))
    lines.append(journal_line(EVIL, status="failed", error=error | {"found": "<img src=x onerror=alert(1)>"}))
    write_text(out / "cases.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    run = {
        "nnunet_spine_ext": "0.1.0",
        "date": "2026-11-20T14:05:11+0000",
        "hostname": "secret-machine",
        "versions": {"torch": "2.15"},
        "options": {"user": "mustermann", "tta": "mirror", "model": f"/srv/{PATIENT}/model"},
        "input": str(images),
    }
    write_json(out / "run.json", run)
    return out


def make_cohort(base: Path, count: int) -> dict[str, Path]:
    """Write predictions of `count` cases with instances, earlier masks, images, references and their scores.

    Case 0 is the best one; the last but one has no image; the last one failed and carries markup in its name.
    """
    out, before, images, refs = (base / name for name in ("out", "before", "images", "refs"))
    lines = []
    image, _, _ = spine()
    for number in range(count - 1):
        name = f"case{number:03d}"
        _, labels, instances = spine()
        array = labels.array.copy()
        array.reshape(-1)[number * 7 :: 997 // (number + 1)] = 3
        write_volume(labels.with_array(array), out / f"{name}.nii.gz")
        write_volume(instances, out / "instances" / f"{name}.nii.gz")
        write_volume(spine(2)[1], before / f"{name}.nii.gz")
        write_volume(spine(2)[2], before / "instances" / f"{name}.nii.gz")
        write_volume(labels, refs / f"{name}.nii.gz")
        write_volume(instances, refs / "instances" / f"{name}.nii.gz")
        if number < count - 2:
            write_volume(image, images / f"{name}_0000.nii.gz")
        lines.append(journal_line(name, seconds=10.0 + number))
    problem = {
        "severity": "warning",
        "code": "W-GEOM-NOCODE",
        "file": "x",
        "found": "0",
        "expected": "1",
        "fix": "look",
    }
    lines[1]["warnings"] = [problem]
    lines.append(journal_line(EVIL, status="failed", error=problem | {"severity": "error", "code": "E-IN-TRUNCATED"}))
    write_text(out / "cases.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_json(out / "run.json", {"date": "2026-11-20T14:05:11+0000", "versions": {"torch": "2.15"}})
    evaluate(refs, out, base / "scores", scheme="nnunet14", metrics=("dice", "assd", "pq", "level_dice", "level_assd"))
    return {"out": out, "before": before, "i": images, "evaluation": base / "scores"}


def read_data(page: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the data of a page: about all cases, and the details of each case by its name."""
    blocks = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page, re.DOTALL)
    found = {name: json.loads(text) for name, text in blocks}
    data = found.pop("data")
    names = [name for name, *_ in data["cases"]]
    return data, {name: found[f"data-{number}"] for number, name in enumerate(names, 1)}
