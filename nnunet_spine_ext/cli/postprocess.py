"""`nnUNetv2_spine_postprocess`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.phase_options import add_phase_options
from nnunet_spine_ext.cli.shell import add_json_option, add_settings_option, make_parser, run

PROG = "nnUNetv2_spine_postprocess"
FUNCTION = "nnunet_spine_ext.inference.postprocess:postprocess"
EXAMPLES = """  nnUNetv2_spine_postprocess -i masks -o out --scheme spineps
  nnUNetv2_spine_postprocess -i masks -o out --numbering --snapshots --images scans
  nnUNetv2_spine_postprocess -i lumbar.nii.gz -o out --scheme nnunet14 --first-vertebra L1
  nnUNetv2_spine_postprocess -i masks -o out --instance-model MODEL --numbering-model MODEL2 --images scans
  nnUNetv2_spine_postprocess -i masks -o out --numbering --bids --jobs 4 --resume"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `inference.postprocess.postprocess`."""
    parser = make_parser(
        PROG,
        "Separate, clean and number the vertebrae of semantic masks, whoever made them. A case that fails leaves the "
        "others alone; cases.jsonl says what happened to each.",
        EXAMPLES,
    )
    parser.add_argument("-i", required=True, nargs="+", metavar="FILE_OR_FOLDER", help="masks, or a folder of masks")
    parser.add_argument("-o", required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument(
        "--scheme",
        help="label scheme of the masks: nnunet14, spineps, or one of whole vertebrae: whole_vertebrae as in SPIDER, "
        "totalsegmentator_mr (default: as the dataset.json beside them says)",
    )
    phases = parser.add_argument_group("what is done")
    add_phase_options(phases)
    add_settings_option(phases, "settings of a phase: instances.KEY, numbering.KEY or network.KEY; repeatable")
    phases.add_argument("--report", action="store_true", help="also write report.html")
    others = parser.add_argument_group("what belongs to the masks, as a folder with the same file names or one file")
    others.add_argument("--images", metavar="PLACE", help="images, for --numbering-model and the pictures")
    others.add_argument("--levels", metavar="PLACE", help="other masks that name levels; implies --numbering")
    others.add_argument(
        "--levels-scheme",
        default="instances",
        metavar="SCHEME",
        help="label scheme of --levels, such as totalspineseg (default: %(default)s)",
    )
    others.add_argument(
        "--localizer",
        metavar="PLACE",
        help="numbered instances of another scan of each person; implies --numbering",
    )
    _add_run_options(parser.add_argument_group("the run"))
    add_json_option(parser)
    return parser


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-device",
        "--device",
        default="auto",
        help="of networks: auto, cpu, cuda, cuda:N or mps (default: auto)",
    )
    group.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes; each holds one case in memory (default: 1)"
    )
    group.add_argument("--resume", action="store_true", help="keep finished cases, verified by checksums")
    group.add_argument("--strict", action="store_true", help="treat warnings about files as errors")
    group.add_argument("--prefer", choices=("sform", "qform"), help="which transform to believe when a header has two")
    group.add_argument(
        "--dry-run", action="store_true", help="read every file as the run would, name what would fail, write nothing"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
