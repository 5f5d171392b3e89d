"""What plans of a fine-tuning say under ``plans["spine_ext"]["finetune"]``: from which weights, with which cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nnunet_spine_ext.core.errors import SetupError, UsageError

FINETUNE_TRAINER = "nnUNetTrainerSpineFinetune"
SOFT_FINETUNE_TRAINER = "nnUNetTrainerSpineFinetuneSoft"

Parts = Literal["norm", "decoder", "all"]


@dataclass(frozen=True)
class SourceCheckpoint:
    """Weights of one fold.

    Parameters
    ----------
    path: may begin with ``$nnUNet_results`` or ``$nnUNet_preprocessed``. sha256: of the file, in hex.
    copy_of: SHA-256 of the checkpoint that the file holds the weights of, where it is a copy without code.
    """

    path: str
    sha256: str
    copy_of: str | None = None

    @property
    def original(self) -> str:
        """SHA-256 of the checkpoint that training wrote."""
        return self.copy_of or self.sha256


@dataclass(frozen=True)
class Ancestor:
    """A model that another one was fine-tuned from: its name and the SHA-256 of its checkpoints by fold."""

    model: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class SourceModel:
    """The model whose weights a fine-tuning starts from.

    Parameters
    ----------
    model: its dataset and folder, ``Dataset501_X/nnUNetTrainerSpine__plans__3d_fullres``.
    trainer: class that trained it.
    heads: what its outputs are, in their order: names of labels (background first) or of regions.
    regions: whether the outputs are regions.
    checkpoints: by name of the fold; a fold of the fine-tuning starts from the fold of the same name.
    lineage: what the source itself was fine-tuned from, nearest first.
    """

    model: str
    trainer: str
    heads: tuple[str, ...]
    checkpoints: dict[str, SourceCheckpoint]
    regions: bool = False
    lineage: tuple[Ancestor, ...] = ()

    def ancestor(self) -> Ancestor:
        """Return what the plans of a further fine-tuning remember of this one."""
        return Ancestor(self.model, {fold: c.original for fold, c in self.checkpoints.items()})


@dataclass(frozen=True)
class FinetuneSettings:
    """A fine-tuning: one selection of cases, and so one N, per plans file.

    Parameters
    ----------
    source: the model to start from.
    cases: what is trained on. validation: what is validated on; no case and no subject of it may be in `cases`.
    parts: what is trained: ``norm`` (scale and shift of the norm layers), ``decoder``, or ``all``. Segmentation layers
        are trained too where the target has labels that the source does not know.
    n: subjects in `cases`. seed: of the selection; None where the cases were named.

    Raises
    ------
    UsageError: no cases, a case twice or on both sides, no checkpoint.
    """

    source: SourceModel
    cases: tuple[str, ...]
    validation: tuple[str, ...]
    parts: Parts = "all"
    n: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        counts = Counter([*self.cases, *self.validation])
        twice = sorted(case for case, count in counts.items() if count > 1)
        found = [f"{', '.join(twice[:8])} more than once"] if twice else []
        found += [f"no {what}" for what in ("cases", "validation") if not getattr(self, what)]
        found += [] if self.source.checkpoints else ["no checkpoint"]
        if found:
            raise UsageError(
                "E-FINETUNE-CASES",
                file="finetune settings",
                found="; ".join(found),
                expected="cases to train on and others to validate on, each once",
                fix="make the plans anew with nnUNetv2_spine_finetune_plan",
            )

    def identity(self) -> dict[str, Any]:
        """Return what makes two fine-tunings different: where the checkpoint lies does not."""
        content = asdict(self)
        content["source"] = {"heads": self.source.heads, "sha256": self.source.ancestor().sha256}
        return content


def finetune_trainer(*, soft: bool) -> str:
    """Return the trainer that fine-tunes models of soft, or of hard labels."""
    return SOFT_FINETUNE_TRAINER if soft else FINETUNE_TRAINER


def refuse_finetune_settings(finetune: FinetuneSettings | None, trainer: str, *, soft: bool) -> None:
    """Raise SetupError when plans ask for a fine-tuning and the trainer would start from random weights."""
    if finetune is not None:
        wanted = finetune_trainer(soft=soft)
        raise SetupError(
            "E-TRAINER-FINETUNE",
            file="plans spine_ext.finetune",
            found=f"settings of a fine-tuning, which {trainer} does not do",
            expected=wanted,
            fix=f"train with -tr {wanted}, or with plans without finetune",
        )


def common_heads(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """Return (number in `source`, number in `target`) of the outputs that have one name."""
    where = {name: number for number, name in enumerate(source)}
    return [(where[name], number) for number, name in enumerate(target) if name in where]
