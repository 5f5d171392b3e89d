"""The options that commands share which train a network of their own, fold by fold."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.shell import add_device_option, add_json_option, add_settings_option


def add_training(parser: argparse.ArgumentParser, *, name: str, settings: str) -> None:
    """Add the options of a training on a raw dataset.

    Parameters
    ----------
    name: default of ``--name``. settings: examples of ``--set``.
    """
    parser.add_argument("-d", required=True, metavar="DATASET", help="id, name or folder of a raw dataset")
    parser.add_argument(
        "-f", nargs="+", default=("0",), metavar="FOLD", help="folds, or all: one network of all cases (default: 0)"
    )
    parser.add_argument(
        "-o", metavar="DIR", help="folder of the model (default: nnUNet_results/<dataset>/<name>, with _all for -f all)"
    )
    parser.add_argument("--name", default=name, help=f"name of that folder (default: {name})")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--preset", default="paper", metavar="NAME", help="paper, cpu, or a YAML file (default: paper; it needs a GPU)"
    )
    add_settings_option(how, f"change settings, repeatable: {settings}, ...")
    add_device_option(how)
    again = parser.add_argument_group("an earlier training")
    again.add_argument("--resume", action="store_true", help="go on where it was stopped; finished folds stay")
    again.add_argument("--overwrite", action="store_true", help="train its folds anew")
    add_json_option(parser)
