"""What a training of an instance or numbering network tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.instances.training.dataset import sides_in_words


@dataclass
class TrainingResult:
    """What was trained.

    Parameters
    ----------
    folder: of the model.
    folds: per fold its epochs, CPU seconds, what the network reached and the numbers of `dataset.sides_of`.
    cases: which cases could be used, with warnings and errors of the others.
    """

    folder: Path
    folds: dict[str, dict[str, Any]] = field(default_factory=dict)
    cases: RunSummary = field(default_factory=RunSummary)

    @property
    def exit_code(self) -> int:
        """0: all fine; 3: cases could not be used, the network was trained without them."""
        return self.cases.exit_code

    def reached(self, row: dict[str, Any]) -> str:
        """Return in words what the network of a fold reached, to go behind the other facts of it."""
        raise NotImplementedError

    def render(self) -> str:
        """Return a text for the console."""
        lines = [*self.cases.in_words(), f"{self.folder}: {len(self.cases.done)} usable cases"]
        for fold, row in self.folds.items():
            effort = f"{row['epochs']} epochs, {row['cpu_seconds'] / 60:.1f} CPU minutes"
            lines.append(f"fold {fold}: {sides_in_words(fold, row)}, {effort}{self.reached(row)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {"folder": str(self.folder), "folds": self.folds, **self.cases.to_dict()}
