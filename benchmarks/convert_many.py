"""Convert 1,000 series on one small machine: time per series, peak memory, and a kill in the middle.

    python benchmarks/convert_many.py --out DIR [--series 50] [--subjects 1000] [--quick] [--record FILE]

Distinct phantom series, hard-linked under many subject names, are converted in a process of its own with 14 classes.
Then the same is done again, killed without warning when about two fifths are finished, and continued with `resume`;
both datasets must have the same bytes. `--quick` takes few and coarse series and ends within minutes.
The last line is the summary; the exit code is 1 when memory, bytes or counts are not what they should be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import write_json

LIMIT_MIB = 1024
NAME = "Dataset501_Many"
_CONVERT = """
import json, sys
from pathlib import Path
from nnunet_spine_ext.dataset_conversion.pairs import pairs
tree, root, resume = sys.argv[1:]
result = pairs(
    501, name="Many", images=[tree + "/{subject}/anat/T2w.nii.gz"], labels=[tree + "/{subject}/anat/seg.nii.gz"],
    label_map=["nnunet14"], contrast=["T2w"], raw=root + "/raw", preprocessed=root + "/pre", resume=resume == "resume",
)
status = Path("/proc/self/status").read_text()
print(json.dumps({
    "used": len(result.rows), "skipped": len(result.skipped), "resumed": result.resumed,
    "total_s": result.total_seconds, "seconds": sorted(result.seconds.values()),
    "peak_mib": int(status.split("VmHWM:")[1].split()[0]) / 1024,
}))
"""


def make_series(out: Path, count: int, *, coarse: bool) -> list[tuple[Path, Path]]:
    """Return image and mask of `count` digital spines; made once."""
    from nnunet_spine_ext.phantom.generate import phantom

    root = out / "series"
    if not (root / "Series").is_dir():
        spacing = (3.0, 3.0, 4.0) if coarse else None
        phantom(root, n=count, protocol=["t2w_sagittal"], region="whole", spacing=spacing, layout="bids",
                name="Series", supersample=1)  # fmt: skip
    images = sorted((root / "Series").glob("sub-*/anat/*_T2w.nii.gz"))[:count]
    masks = root / "Series" / "derivatives" / "labels"
    return [
        (i, masks / i.parent.relative_to(root / "Series") / i.name.replace(".", "_label-spine_dseg.", 1))
        for i in images
    ]


def link(pairs: list[tuple[Path, Path]], tree: Path, subjects: int) -> None:
    """Give every series many names; the bytes are on the disk once."""
    shutil.rmtree(tree, ignore_errors=True)
    for number in range(subjects):
        folder = tree / f"sub-{number + 1:04d}" / "anat"
        folder.mkdir(parents=True)
        for source, name in zip(pairs[number % len(pairs)], ("T2w.nii.gz", "seg.nii.gz"), strict=True):
            os.link(source, folder / name)


def start(tree: Path, root: Path, *, resume: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CONVERT, str(tree), str(root), "resume" if resume else "new"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    answer, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the conversion ended with {process.returncode}")
    report: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return report


def kill_when(process: subprocess.Popen[str], root: Path, finished: int) -> int:
    """Kill a conversion when its journal has that many cases; return how many it had then."""
    journal = root / "raw" / f".{NAME}.partial" / "journal.jsonl"
    while process.poll() is None:
        count = journal.read_bytes().count(b"\n") - 1 if journal.is_file() else 0
        if count >= finished:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return count
        time.sleep(0.05)
    sys.exit("the conversion ended before it could be killed")


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(root)).encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--series", type=int, default=50)
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="10 coarse series under 100 names")
    parser.add_argument("--record", type=Path, help="also write the summary to this JSON file")
    arguments = parser.parse_args()
    series, subjects = (10, 100) if arguments.quick else (arguments.series, arguments.subjects)
    out = arguments.out.resolve() / ("quick" if arguments.quick else "full")
    pairs = make_series(out, series, coarse=arguments.quick)
    link(pairs, out / "tree", subjects)
    shutil.rmtree(out / "whole", ignore_errors=True)
    shutil.rmtree(out / "killed", ignore_errors=True)

    whole = finish(start(out / "tree", out / "whole"))
    killed_at = kill_when(start(out / "tree", out / "killed"), out / "killed", int(0.4 * subjects))
    resumed = finish(start(out / "tree", out / "killed", resume=True))
    seconds = whole["seconds"]
    summary = {
        "series": series,
        "subjects": subjects,
        "quick": arguments.quick,
        "source_mib_per_series": round(sum(f.stat().st_size for pair in pairs for f in pair) / len(pairs) / 2**20, 2),
        "used": whole["used"],
        "total_s": round(whole["total_s"], 1),
        "series_per_s": round(whole["used"] / whole["total_s"], 2),
        "s_per_series_median": round(seconds[len(seconds) // 2], 3),
        "s_per_series_max": round(seconds[-1], 3),
        "peak_rss_mib": round(whole["peak_mib"]),
        "killed_at": killed_at,
        "resumed": resumed["resumed"],
        "resume_total_s": round(resumed["total_s"], 1),
        "resume_peak_rss_mib": round(resumed["peak_mib"]),
        "same_bytes": digest(out / "whole") == digest(out / "killed"),
    }
    if arguments.record:
        write_json(arguments.record, {"summary": summary})
    print(json.dumps(summary))
    good = summary["same_bytes"] and whole["used"] == subjects and not whole["skipped"]
    good = good and max(whole["peak_mib"], resumed["peak_mib"]) <= LIMIT_MIB and resumed["resumed"] >= killed_at
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
