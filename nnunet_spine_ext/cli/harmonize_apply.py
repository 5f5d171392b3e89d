"""`nnUNetv2_spine_harmonize apply`: the options of harmonizing volumes."""

from __future__ import annotations

import argparse

from nnunet_spine_ext.cli.shell import EXIT_CODES, add_common_options, add_json_option

PROG = "nnUNetv2_spine_harmonize"
FUNCTION = "nnunet_spine_ext.inference.harmonize:apply"

_DESCRIPTION = """Make volumes look like those of the scanner that a harmonizer was trained for.

Slices that the geometry gate does not pass stay as they were, and are reported. Grid, affine and orientation of every
volume stay the same."""
_EXAMPLES = f"""  {PROG} apply -i scans -o harmonized -m models/harmonizer
  {PROG} apply -i scan.nii.gz -o harmonized -m models/harmonizer --segmenter models/discs --resume"""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = actions.add_parser(
        "apply",
        help="harmonize volumes",
        description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(shell_function=FUNCTION)
    parser.add_argument("-i", nargs="+", required=True, metavar="PATH", help="images, or folders of images")
    parser.add_argument("-o", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("-m", required=True, metavar="DIR", help="folder of a harmonizer")
    parser.add_argument("--segmenter", metavar="DIR", help="model of the discs, for the gate's agreement of masks")
    parser.add_argument(
        "-device", "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (default: auto)"
    )
    parser.add_argument("--resume", action="store_true", help="keep finished cases whose files are unchanged")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    add_common_options(parser, again=True)
    add_json_option(parser)
