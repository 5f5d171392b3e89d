"""Names of datasets as nnU-Net's folders have them: ``Dataset501_Name``, the number its id."""

from __future__ import annotations


def dataset_pattern(dataset: str) -> str:
    """Return the pattern of the folder of a dataset that was asked for by its id or its name."""
    return f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset


def dataset_number(name: str) -> int:
    """Return the id of a dataset of this name; some of nnU-Net's commands take only that."""
    return int(name[7:10])
