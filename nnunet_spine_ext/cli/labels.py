"""`nnUNetv2_spine_labels`: label masks and centroid files of other tools, in and out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_action, add_common_options, add_json_option, make_parser, run

PROG = "nnUNetv2_spine_labels"
FUNCTION = "nnunet_spine_ext.dataset_conversion.label_files:convert"
_POINTS = "nnunet_spine_ext.dataset_conversion.point_files:points"
_LIST = "nnunet_spine_ext.dataset_conversion.label_files:schemes"
_TABLES = "nnunet_spine_ext.dataset_conversion.label_files:tables"

_EXAMPLES = f"""  {PROG} convert -i masks -o out --from totalspineseg --to nnunet14
  {PROG} points -i centroids -o verse --to verse
  {PROG} list
  {PROG} tables -o tables --scheme nnunet14 instances"""
_CONVERT_EXAMPLES = f"""  # masks of TotalSpineSeg: classes into out, levels into out/instances
  {PROG} convert -i step2_output -o out --from totalspineseg --to nnunet14
  # a prediction of ours (classes and levels) as SPIDER-style .mha
  {PROG} convert -i prediction -o spider --from nnunet14 --to spider --instances prediction/instances --file-ending .mha
  # TotalSegmentator's organs are no part of the scheme
  {PROG} convert -i total_mr.nii.gz -o spine.nii.gz --from totalsegmentator_mr --to nnunet14 --drop-unknown
  # ids of one's own
  {PROG} convert -i mine -o out --to nnunet14 --map cord=1 canal=2 corpus=3,4 background=9
  # SPINEPS masks in which cord and canal may be exchanged
  {PROG} convert -i masks -o repaired --from spineps --to spineps --fix-cord-canal"""
_POINTS_EXAMPLES = f"""  # VerSe centroids to TPTBox lists; a VerSe file does not say where its voxels lie
  {PROG} points -i sub-verse004_seg-subreg_ctd.json -o out --to poi --like sub-verse004_ct.nii.gz
  {PROG} points -i prediction/centroids -o verse --to verse --orientation PIR
  # centres of the levels of masks
  {PROG} points -i totalspineseg_masks -o out --to poi --scheme totalspineseg"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with its sub-commands."""
    parser = make_parser(PROG, "Translate label masks and centroid files between the conventions of tools.", _EXAMPLES)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_convert(actions)
    _add_points(actions)
    _add_list(actions)
    _add_tables(actions)
    return parser


def _sub_parser(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: str,
    summary: str,
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser = add_action(actions, name, function, short=summary, description=text, examples=examples)
    add_common_options(parser, again=True)
    add_json_option(parser)
    return parser


def _add_convert(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _sub_parser(
        actions,
        "convert",
        FUNCTION,
        "translate the ids of masks",
        "Translate the ids of label masks. Type, affine and orientation of every file stay as they are. What the\n"
        "translation loses is listed; an id that the source does not have stops its case, with a count of voxels.",
        _CONVERT_EXAMPLES,
    )
    _add_files(parser, "masks, or folders of masks", "folder, or a file if one mask is named")
    group = parser.add_argument_group("labels")
    group.add_argument("--from", dest="source", metavar="SCHEME", help=f"scheme of the masks ({PROG} list)")
    group.add_argument("--to", dest="target", metavar="SCHEME", help="scheme of the results")
    group.add_argument(
        "--map",
        dest="label_map",
        nargs="+",
        metavar="NAME=ID",
        help="ids of one's own: name=id[,id] words or one YAML file; names of --to, or without --to numbered from 1; "
        "background=id drops ids",
    )
    group.add_argument(
        "--instances", metavar="DIR", help="instance masks of the same cases, to write levels from masks of classes"
    )
    _add_spider(group)
    group.add_argument(
        "--fix-cord-canal",
        action="store_true",
        help="exchange cord and canal where the canal lies inside the cord (without it: a warning)",
    )
    group.add_argument(
        "--drop-unknown", action="store_true", help="ids that --from does not have become background, with a warning"
    )
    group.add_argument("--file-ending", metavar="ENDING", help="such as .mha (default: as the input)")


def _add_points(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _sub_parser(
        actions,
        "points",
        _POINTS,
        "translate centroid files, or compute them from masks",
        "Write TPTBox point lists or VerSe centroids from files of either kind or from instance masks. Places in the\n"
        "body stay where they are, whatever the orientation of the voxels that the coordinates count.",
        _POINTS_EXAMPLES,
    )
    _add_files(parser, "point files (.json) or instance masks, or folders of them", "folder, or a .json file")
    group = parser.add_argument_group("points")
    group.add_argument("--to", dest="target", required=True, choices=("poi", "verse"), help="kind of the results")
    group.add_argument(
        "--scheme", default="instances", metavar="SCHEME", help="scheme of the masks (default: instances)"
    )
    group.add_argument(
        "--semantic", metavar="DIR", help="nnunet14 masks of the same cases: vertebrae are where their bodies are"
    )
    group.add_argument(
        "--like", metavar="FILE|DIR", help="the images of the points, for files that state no grid (VerSe's own)"
    )
    group.add_argument(
        "--orientation", metavar="PIR", help="of the voxels that the results count (default: the input's)"
    )
    _add_spider(group)


def _add_list(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _sub_parser(
        actions,
        "list",
        _LIST,
        "list schemes and translations",
        "List the label schemes, the translations between them, and what each of these loses.",
        f"  {PROG} list\n  {PROG} list --json",
    )


def _add_tables(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _sub_parser(
        actions,
        "tables",
        _TABLES,
        "write colour tables",
        "Write the names and colours of label schemes for ITK-SNAP (.txt) and 3D Slicer (.ctbl).",
        f"  {PROG} tables -o tables\n  {PROG} tables -o tables --scheme spider totalspineseg",
    )
    parser.add_argument("-o", required=True, metavar="DIR", help="folder for the tables")
    parser.add_argument(
        "--scheme",
        dest="schemes",
        nargs="+",
        default=("nnunet14", "instances"),
        metavar="SCHEME",
        help="default: nnunet14 instances",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace tables that are there")


def _add_files(parser: argparse.ArgumentParser, inputs: str, output: str) -> None:
    group = parser.add_argument_group("files")
    group.add_argument("-i", nargs="+", required=True, metavar="PATH", help=inputs)
    group.add_argument("-o", required=True, metavar="PATH", help=output)
    group.add_argument("--prefer", choices=("sform", "qform"), help="which to use where the two disagree")
    group.add_argument("--overwrite", action="store_true", help="replace results that are there (never an input)")
    group.add_argument("--dry-run", action="store_true", help="do everything but write")


def _add_spider(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--level-order",
        choices=("bottom-up", "top-down"),
        default="bottom-up",
        help="from which end SPIDER masks count (default: %(default)s)",
    )
    group.add_argument(
        "--lowest",
        metavar="NAME",
        help="vertebra with SPIDER's number 1 (default: L5 where masks are read, the lowest where they are written)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
