"""SPINEPS' own instance phase and post-processing on one mask, an oracle in place of its network.

Runs in SPINEPS' environment: `python -m instancing.spineps_side JOB.json`, from the folder benchmarks/.
The job names an .npz file with `semantic` (ids of nnunet14) and `truth` (vertebrae 1..n), both along P, I, R, the
conditions of the oracle, and where masks go. The last line printed is the result.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from instancing.memory import Peak
from instancing.oracle import Condition, Oracle

SPACING = (0.75, 0.75, 1.65)
# nnunet14 to the ids of SPINEPS.
IDS = np.array([0, 26, 41, 42, 43, 44, 45, 46, 47, 48, 49, 60, 61, 62, 100], np.uint8)
# Voxel indices along P, I, R to RAS+ mm.
AFFINE = np.array([[0, 0, 1.65, 0], [-0.75, 0, 0, 0], [0, -0.75, 0, 0], [0, 0, 0, 1]], float)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        import nibabel
        from spineps.phase_instance import predict_instance_mask  # noqa: F401
        from spineps.phase_post import phase_postprocess_combined  # noqa: F401
        from TPTBox import NII
    imported = time.process_time() - begin
    peak = Peak()
    stored = np.load(job["masks"])
    semantic, truth = stored["semantic"], stored["truth"]
    mask = NII(nibabel.Nifti1Image(IDS[semantic], AFFINE), seg=True)
    results: dict[str, Any] = {"import_s": imported, "import_mib": peak.base_mib, "conditions": {}}
    for condition in [Condition(**entry) for entry in job["conditions"]]:
        runs = []
        for _ in range(job["repeats"]):
            oracle = Oracle(truth, semantic, condition)
            runs.append(_run(mask, oracle, peak, job["limit_s"]))
            if runs[-1]["error"]:
                break
        results["conditions"][condition.name] = {
            "instance_s": [run["instance_s"] for run in runs],
            "post_s": [run["post_s"] for run in runs],
            "peak_mib": runs[0]["peak_mib"],
            "asked": oracle.asked,
            "hit": oracle.hit,
            "error": runs[-1]["error"],
        }
        np.savez_compressed(
            Path(job["out"]) / f"{condition.name}.npz", instances=runs[-1]["instances"], raw=runs[-1]["raw"]
        )
    print(json.dumps(results))


def _run(mask: Any, oracle: Oracle, peak: Any, limit_s: float) -> dict[str, Any]:
    """Run both phases once, as `spineps.segment` calls them; CPU seconds without those of the oracle.

    After `limit_s` CPU seconds it is stopped; the seconds until then count, and `error` says so.
    """
    from spineps.phase_instance import predict_instance_mask
    from spineps.phase_post import phase_postprocess_combined
    from spineps.seg_enums import ErrCode

    model = _Model(oracle)
    semantic = mask.copy()
    image = mask.set_array(np.zeros(mask.shape, np.uint8), seg=False)
    error, instance_s, post_s, found, final = "", 0.0, 0.0, None, None
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    start, own = time.process_time(), oracle.seconds
    began = start
    peak.reset()
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            found, code = predict_instance_mask(semantic.copy(), model, {})
            instance_s = time.process_time() - began - (oracle.seconds - own)
            if code != ErrCode.OK:
                error = str(code)
            else:
                began = time.process_time()
                _, final = phase_postprocess_combined(
                    img_nii=image,
                    seg_nii=semantic,
                    vert_nii=found.copy(),
                    model_labeling=None,
                    debug_data=None,
                    labeling_offset=1,
                )
                post_s = time.process_time() - began
        except Exception:  # whatever it raises is its result for this mask
            error = traceback.format_exc(limit=-1)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    if error and found is None:
        instance_s = time.process_time() - start - (oracle.seconds - own)
    elif error:
        post_s = time.process_time() - began
    peak_mib = peak.above_mib()
    nothing = np.zeros(mask.shape, np.uint8)
    return {
        "instance_s": instance_s,
        "post_s": post_s,
        "peak_mib": peak_mib,
        "raw": nothing if found is None else found.get_seg_array(),
        "instances": nothing if final is None else final.get_seg_array(),
        "error": error,
    }


def _stop(*_: Any) -> None:
    message = "stopped at the limit of CPU seconds"
    raise TimeoutError(message)


class _Model:
    """What `predict_instance_mask` needs of an instance model; settings are SPINEPS' defaults."""

    def __init__(self, oracle: Oracle) -> None:
        from spineps.utils.seg_modelconfig import Segmentation_Inference_Config

        self.oracle = oracle
        self.inference_config = Segmentation_Inference_Config(
            None, "oracle", ["T2w"], "sag", "unet", ("P", "I", "R"), 1, False, SPACING, 0.5,
            {1: 1, 2: 2, 3: 3}, expected_inputs=["seg"],
        )  # fmt: skip

    def calc_recommended_resampling_zoom(self, zoom: Any) -> Any:
        return self.inference_config.resolution_range

    def segment_scan_batch(self, cutouts: list[Any], **options: Any) -> list[dict[Any, Any]]:
        """Answer for every cutout, found in the mask by its affine."""
        from spineps.seg_enums import OutputType

        begin, own = time.process_time(), self.oracle.seconds
        answers = []
        for cutout in cutouts:
            corner = np.linalg.solve(AFFINE, [*cutout.affine[:3, 3], 1.0])[:3]
            start = [round(float(v)) for v in corner]
            labels = np.zeros(cutout.shape, np.uint8)
            window, inside = self.oracle.answer(start, cutout.shape)
            labels[tuple(slice(w.start - s, w.stop - s) for w, s in zip(window, start, strict=True))] = inside
            answers.append({OutputType.seg: cutout.set_array(labels)})
        # Building answers stands for the network: it does not count.
        self.oracle.seconds += time.process_time() - begin - (self.oracle.seconds - own)
        return answers


if __name__ == "__main__":
    main()
