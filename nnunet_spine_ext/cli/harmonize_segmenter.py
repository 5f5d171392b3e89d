"""`nnUNetv2_spine_harmonize segmenter`: the options of training a segmenter of target slices."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.shell import (
    add_action,
    add_common_options,
    add_device_option,
    add_json_option,
    add_settings_option,
)

PROG = "nnUNetv2_spine_harmonize"
FUNCTION = "nnunet_spine_ext.training.slice_segmenter:segmenter"

_DESCRIPTION = """Train a network that finds the discs in sagittal slices of the target scanner.

It stays as it is while a harmonizer is trained, and judges slices afterwards."""
_EXAMPLES = f"""  {PROG} segmenter -d 701 --target Siemens -o models/discs
  {PROG} segmenter -d 701 --target Siemens -o models/discs --preset cpu -device cpu --resume"""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        actions,
        "segmenter",
        FUNCTION,
        short="train a segmenter of target slices",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    parser.add_argument(
        "-d", nargs="+", required=True, metavar="DATASET", help="ids, names or folders of raw datasets with cases.json"
    )
    parser.add_argument("--target", nargs="+", required=True, metavar="VALUE", help="scanners to learn from")
    parser.add_argument(
        "--key",
        default="manufacturer",
        metavar="NAME",
        help="the fact in cases.json that tells scanners apart (default: manufacturer)",
    )
    parser.add_argument("-o", required=True, metavar="DIR", help="folder of the model")
    parser.add_argument(
        "--preset",
        default="full",
        metavar="NAME",
        help="full, paper (the published network), cpu, smoke, or a YAML file (default: full)",
    )
    add_settings_option(parser, "change settings, repeatable")
    add_device_option(parser)
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    parser.add_argument("--overwrite", action="store_true", help="train anew into a folder that has a model")
    add_common_options(parser, again=True)
    add_json_option(parser)
