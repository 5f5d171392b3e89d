"""`nnUNetv2_spine_harmonize apply`: the options of harmonizing volumes."""

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
FUNCTION = "nnunet_spine_ext.inference.harmonize:apply"

_DESCRIPTION = """Make volumes look like those of the scanner that a harmonizer was trained for.

Slices that the geometry gate does not pass stay as they were, and are reported; so does a volume of which fewer than
half of the slices pass. Grid, affine and orientation of every volume stay the same."""
_EXAMPLES = f"""  {PROG} apply -i scans -o harmonized -m models/harmonizer
  {PROG} apply -i scan.nii.gz -o harmonized -m models/harmonizer --segmenter models/discs --resume
  {PROG} apply -i scans -o harmonized -m models/harmonizer --set weakest=0.7 --snapshots"""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = add_action(
        actions, "apply", FUNCTION, short="harmonize volumes", description=_DESCRIPTION, examples=_EXAMPLES
    )
    parser.add_argument("-i", nargs="+", required=True, metavar="FILE_OR_FOLDER", help="images, or a folder of images")
    parser.add_argument("-o", required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument("-m", required=True, metavar="FOLDER", help="folder of a harmonizer")
    parser.add_argument(
        "--segmenter",
        metavar="FOLDER",
        help="model of the discs (of the action segmenter, or a 2-D model of nnU-Net): the gate compares areas and "
        "masks, too (default: edges alone)",
    )
    add_settings_option(
        parser,
        "limits of the gate: edge_correlation, weakest, kept, volume_change, agreement, least_mm2; min_passed, the "
        "share of slices below which a whole volume stays as it was (default: 0.5)",
    )
    add_device_option(parser)
    parser.add_argument(
        "--snapshots", action="store_true", help="also write a picture per case, before and after, to snapshots/"
    )
    parser.add_argument("--resume", action="store_true", help="keep finished cases, verified by checksums")
    parser.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
    parser.add_argument("--prefer", choices=("sform", "qform"), help="which transform to believe when a header has two")
    parser.add_argument(
        "--dry-run", action="store_true", help="read every file as the run would, name what would fail, write nothing"
    )
    add_common_options(parser, again=True)
    add_json_option(parser)
