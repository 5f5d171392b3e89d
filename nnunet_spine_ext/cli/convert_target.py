"""The options about the dataset to write, which the sub-commands of `nnUNetv2_spine_convert` share."""

from __future__ import annotations

import argparse


def add_target(parser: argparse.ArgumentParser, *, name: str | None = None) -> None:
    """Add the options about the dataset to write, which all converters share; `name` is the default of `--name`."""
    group = parser.add_argument_group("output")
    group.add_argument("dataset_id", type=int, metavar="DATASET_ID", help="a free number from 1 to 999")
    default = "" if name is None else f" (default: {name})"
    group.add_argument(
        "--name", required=name is None, default=name, help=f"the dataset is called Dataset<id>_<NAME>{default}"
    )
    group.add_argument("--folds", type=int, default=5, help="folds of the split by subject (default: 5)")
    group.add_argument("--overwrite", action="store_true", help="replace the dataset of the same id and name")
    group.add_argument("--dry-run", action="store_true", help="check everything and print the plan, write nothing")
    group.add_argument("--resume", action="store_true", help="continue a run with these options that ended early")
    group.add_argument("--raw", metavar="DIR", help="instead of nnUNet_raw")
    group.add_argument("--preprocessed", metavar="DIR", help="instead of nnUNet_preprocessed")
    group.add_argument("--description", default="", help="text for dataset.json")
    group.add_argument("--licence", default="", help="licence of the data, for dataset.json")
