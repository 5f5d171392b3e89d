"""Running the network that names vertebrae."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_spine_ext.core.device import choose_device
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.numbering.crops import CropSpec, cut_crops, normalized
from nnunet_spine_ext.numbering.model import NumberingModel, load_fold, read_numbering_model, unusable
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.numbering.targets import HEADS

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.networks.level_classifier import LevelClassifier

logger = logging.getLogger(__name__)
_BATCH = 16


class Classifier:
    """Networks that name vertebrae, one per fold; the mean of their probabilities answers.

    Parameters
    ----------
    model: what the networks expect.
    networks: map (B, C, P, I, R) to logits by question.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    batch: vertebrae per pass; halved when memory does not suffice.
    mirror: also ask about the mirrored patch: left and right say nothing about the level.
    temperature: of the answers, see `VertebraScores`; None: they are believed as they are.

    Raises
    ------
    SetupError: the device is not there.
    UsageError: an unknown name of a device, a batch below 1.
    """

    def __init__(
        self,
        model: NumberingModel,
        networks: Sequence[LevelClassifier],
        *,
        device: str = "auto",
        batch: int = _BATCH,
        mirror: bool = True,
        temperature: float | None = None,
    ) -> None:
        if batch < 1:
            raise UsageError("E-USE-BATCH", file="batch", found=f"{batch}", expected="1 or more", fix="use 1")
        self.model = model
        self.mirror = mirror
        self.temperature = temperature
        self._networks = [network.eval() for network in networks]
        self._batch = batch
        self._move(choose_device(device))

    @property
    def spec(self) -> CropSpec:
        """Size, voxel size and layers of the patches."""
        return self.model.crop

    @property
    def device(self) -> torch.device:
        """Where the networks are; the CPU after a GPU ran out of memory."""
        return self._device

    def scores(
        self, image: Volume | None, instances: Volume, semantic: Volume | None, scheme: str = "nnunet14"
    ) -> VertebraScores:
        """Return probabilities for every vertebra of a scan, head to tail: those of `crops.vertebrae_of(instances)`.

        Parameters
        ----------
        image: on the grid of the masks, any orientation; None only for a model of masks alone.
        instances: ids of the scheme ``instances``, or positions 1..n head to tail.
        semantic: labels of `scheme`; None: patches are put around the centres of whole vertebrae.

        Raises
        ------
        CaseError: grids that differ, ids that the scheme does not know.
        UsageError: a model that looks at images, and no image.
        SetupError: not even one vertebra fits into memory.
        """
        if image is None and self.spec.inputs != "masks":
            raise UsageError(
                "E-NUM-IMAGE",
                file="numbering model",
                found="no image",
                expected=f"the image: this model looks at {self.spec.inputs}",
                fix="give the image, or a model trained with crop.inputs=masks",
            )
        crops = cut_crops(image if self.spec.inputs != "masks" else None, instances, semantic, scheme, self.spec)
        return self.predict(normalized(crops.data, self.spec.inputs))

    def predict(self, patches: Array) -> VertebraScores:
        """Return probabilities for normalized patches (n, C, P, I, R)."""
        tables: dict[str, list[Array]] = {name: [] for name in HEADS}
        done = 0
        while done < len(patches):
            found = self._attempt(patches[done : done + self._batch])
            if found is None:
                continue
            for name, table in found.items():
                tables[name].append(table)
            done += len(found["level"])
        parts = {name: np.concatenate(rows) if rows else np.zeros((0, HEADS[name])) for name, rows in tables.items()}
        return VertebraScores(**{**parts, "visible": parts["visible"][:, 1]}, temperature=self.temperature)

    def _attempt(self, patches: Array) -> dict[str, Array] | None:
        """Ask about a batch; None when memory did not suffice and the next attempt will be smaller."""
        import torch

        try:
            return self._ask(torch.from_numpy(np.ascontiguousarray(patches)).to(self._device))
        except (RuntimeError, MemoryError) as error:
            text = str(error).splitlines()[0][:160] if str(error) else "no memory left"
            if not isinstance(error, MemoryError) and "memory" not in text.lower():
                raise
        # Outside of the handler: the traceback would keep the tensors alive.
        self._shrink(len(patches), text)
        return None

    def _ask(self, patches: torch.Tensor) -> dict[str, Array]:
        import torch

        totals: dict[str, torch.Tensor] = {}
        views = [patches, patches.flip(-1)] if self.mirror else [patches]
        with torch.inference_mode():
            for network in self._networks:
                for view in views:
                    for name, logits in network(view).items():
                        chance = logits.double().softmax(1) if logits.device.type != "mps" else logits.softmax(1)
                        totals[name] = totals[name] + chance if name in totals else chance
        count = len(self._networks) * len(views)
        return {name: (total / count).cpu().double().numpy() for name, total in totals.items()}

    def _shrink(self, batch: int, found: str) -> None:
        """Make the next attempt smaller, or let it run on the CPU."""
        import torch

        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if batch > 1:
            self._batch = batch // 2
            logger.warning("%d vertebrae do not fit into memory, going on with %d", batch, self._batch)
        elif self._device.type != "cpu":
            logger.warning("one vertebra does not fit into the memory of %s, going on with the CPU", self._device)
            self._move(torch.device("cpu"))
        else:
            raise SetupError(
                "E-ENV-MEMORY",
                file="numbering model",
                found=found,
                expected=f"memory for one patch of {'x'.join(map(str, self.spec.size))} voxels",
                fix="close other programs",
            )

    def _move(self, device: torch.device) -> None:
        self._device = device
        for network in self._networks:
            network.to(device)


def load_classifier(
    folder: str | Path,
    *,
    device: str = "auto",
    folds: Sequence[int] | None = None,
    batch: int = _BATCH,
    mirror: bool = True,
) -> Classifier:
    """Load a numbering model.

    Parameters
    ----------
    folds: only these; all by default.
    device, batch, mirror: see `Classifier`.

    Raises
    ------
    SetupError: no such model or fold, weights that are damaged or do not fit, no such device.
    UsageError: an unknown name of a device, an unknown key in the description of the model.
    """
    model = read_numbering_model(folder)
    wanted = list(model.folds) if folds is None else list(folds)
    if not wanted:
        raise unusable(folder, "no fold chosen", f"choose among {', '.join(map(str, model.folds))}")
    networks = [load_fold(folder, model, fold) for fold in wanted]
    temperature = model.temperature(wanted)
    return Classifier(model, networks, device=device, batch=batch, mirror=mirror, temperature=temperature)
