"""Predict test sets with trained weights, the same way for every trainer, and score them.

The network is nnU-Net's, without test-time augmentation; masks are compared on the grid of the files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


class Scorer:
    """Scores weights on test sets; images are preprocessed once and kept on disk, in `cache`.

    `preprocessed`: folder of the data set that was trained on. `cases`: test set -> list of (name, image files, mask
    file, {structure: ids in that mask}).
    """

    def __init__(
        self, preprocessed: Path, plans: str, configuration: str, cache: Path, *, step: float, device: str = "cpu"
    ) -> None:
        self.dataset = json.loads((preprocessed / "dataset.json").read_text())
        self.plans = PlansManager(json.loads((preprocessed / f"{plans}.json").read_text()))
        self.configuration = self.plans.get_configuration(configuration)
        self.labels = self.plans.get_label_manager(self.dataset)
        self.cache = cache
        self.predictor = nnUNetPredictor(
            tile_step_size=step, use_mirroring=False, device=torch.device(device), allow_tqdm=False,
            perform_everything_on_device=device != "cpu", verbose=False,
        )  # fmt: skip
        network = get_network_from_plans(
            self.configuration.network_arch_class_name,
            self.configuration.network_arch_init_kwargs,
            self.configuration.network_arch_init_kwargs_req_import,
            determine_num_input_channels(self.plans, self.configuration, self.dataset),
            self.labels.num_segmentation_heads,
            deep_supervision=False,
        )
        self.predictor.manual_initialization(
            network.to(device), self.plans, self.configuration, [], self.dataset, "nnUNetTrainer", None
        )

    def score(self, weights: dict[str, torch.Tensor], sets: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """Return one row per test set, case and structure: its Dice."""
        self.predictor.list_of_parameters = [weights]
        rows = []
        for name, cases in sets.items():
            for case, images, mask, structures in cases:
                data, properties, truth = self._case(name, case, images, mask)
                found = self._predict(data, properties)
                for structure, (own, theirs) in structures.items():
                    dice = _dice(np.isin(found, own), np.isin(truth, theirs))
                    rows.append({"set": name, "case": case, "structure": structure, "dice": dice})
        return rows

    def _case(self, group: str, case: str, images: list[str], mask: str) -> tuple[np.ndarray, dict, np.ndarray]:
        content = hashlib.sha256(b"".join(Path(path).read_bytes() for path in (*images, mask))).hexdigest()
        file = self.cache / group / f"{case}-{content[:12]}.npz"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            preprocessor = self.configuration.preprocessor_class(verbose=False)
            data, _, properties = preprocessor.run_case(images, None, self.plans, self.configuration, self.dataset)
            reader = self.plans.image_reader_writer_class()
            truth, _ = reader.read_seg(mask)
            temporary = file.with_suffix(".tmp.npz")
            np.savez(temporary, data=data, truth=truth[0].astype(np.int16), properties=np.array(properties, object))
            temporary.replace(file)
        with np.load(file, allow_pickle=True) as stored:  # written by this class
            return stored["data"], stored["properties"].item(), stored["truth"]

    @torch.no_grad()
    def _predict(self, data: np.ndarray, properties: dict) -> np.ndarray:
        logits = self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data).float())
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, self.plans, self.configuration, self.labels, properties, num_threads_torch=1
        )


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total
