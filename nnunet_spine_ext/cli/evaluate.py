"""nnUNetv2_spine_evaluate: compare predictions with references."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run
from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.evaluate.registry import DEFAULT_METRICS, METRICS, Metric

PROG = "nnUNetv2_spine_evaluate"
FUNCTION = "nnunet_spine_ext.evaluate.run:evaluate"
_DESCRIPTION = """Compare predicted masks with reference masks of the same case names.

Writes metrics.csv (one value per line), summary.json and summary.md. A missing prediction is scored as an empty one
and makes the exit code 3.

With --csa it is the cross-sectional area of the cord that is compared, with references and between the contrasts of
each subject: soft maps or masks in, csa.csv, csa.md, csa.json and plots out."""
_EXAMPLES = """  nnUNetv2_spine_evaluate -ref nnUNet_raw/Dataset501_SPIDER/labelsTs -pred out -o out/evaluation
  nnUNetv2_spine_evaluate -ref labels -pred out -o scores --metrics dice assd --scheme nnunet14
  nnUNetv2_spine_evaluate -ref labelsTs -pred out -o scores --regions --by manufacturer --latex --jobs 4
  nnUNetv2_spine_evaluate -ref labelsTs -pred out -o scores --scheme nnunet14 --structures spineps --regions
  nnUNetv2_spine_evaluate -ref truth.nii.gz -pred mine.nii.gz -o scores --resample nearest
  nnUNetv2_spine_evaluate --csa -ref softLabelsTs -pred out -o area --discs discs --level-range C2:C3
  nnUNetv2_spine_evaluate --csa -ref areas.csv -pred out -o area --mode pv --cases subjects.csv"""


def _metric_line(row: Metric) -> str:
    width = max(map(len, METRICS))
    unit = f" [{row.unit}]" if row.unit else ""
    note = "" if row.default else " (not by default)"
    return f"  {row.name:{width}}  {row.long_name}{unit}, per {row.scope}{note}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; choices and the list of metrics come from the registry."""
    listing = "\n".join(_metric_line(row) for row in METRICS.values())
    parser = make_parser(PROG, f"{_DESCRIPTION}\n\nmetrics:\n{listing}", _EXAMPLES)
    add_json_option(parser)
    files = parser.add_argument_group("what is compared")
    files.add_argument(
        "-ref", required=True, metavar="DIR", help="folder of reference masks, or one file; with --csa also a table"
    )
    files.add_argument("-pred", required=True, metavar="DIR", help="folder of predicted masks, or one file")
    files.add_argument("-o", required=True, metavar="OUT", help="folder for the tables")
    files.add_argument(
        "-ref-instances",
        "--ref-instances",
        metavar="DIR",
        help="default: instancesTr beside labelsTr, where it exists; with --csa: where levels come from (no default)",
    )
    files.add_argument(
        "-pred-instances", "--pred-instances", metavar="DIR", help="default: instances/ inside -pred, where it exists"
    )
    names = parser.add_argument_group("labels")
    names.add_argument("--labels", metavar="FILE", help="dataset.json, or JSON with names and ids")
    names.add_argument("--scheme", choices=sorted(SCHEMES), help="label scheme; default: dataset.json beside the masks")
    names.add_argument(
        "--structures",
        default="labels",
        metavar="WORD",
        help="labels: score each; spineps: vertebra, disc, canal, cord and parts of vertebrae instead; or a JSON file "
        "{name: [ids or label names]} (default: labels)",
    )
    names.add_argument(
        "--pred-labels",
        metavar="WORD",
        help="scheme, or file as for --labels, of predictions that have other labels; needs --structures",
    )
    names.add_argument(
        "--instance-ids",
        choices=("spineps", "any"),
        default="spineps",
        help="spineps: vertebra n, disc 100+n, endplate 200+n are told apart; any: one kind (default: spineps)",
    )
    _add_scoring(parser)
    _add_cohort(parser)
    _add_areas(parser)
    parser.add_argument_group("speed").add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes; each holds one case in memory (default: 1)"
    )
    return parser


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument(
        "--metrics",
        nargs="+",
        choices=(*METRICS, "default", "all"),
        default=DEFAULT_METRICS,
        metavar="NAME",
        help="see above; default and all stand for many",
    )
    how.add_argument(
        "--matching",
        choices=("iou", "overlap"),
        default="iou",
        help="iou: one to one, from --iou-threshold on; overlap: the largest overlap, as SPIDER does (default: iou)",
    )
    how.add_argument(
        "--iou-threshold", type=float, default=0.5, metavar="X", help="smallest IoU of a match (default: 0.5)"
    )
    how.add_argument(
        "--regions", action="store_true", help="score the cervical, thoracic, lumbar and sacral part as well"
    )
    how.add_argument(
        "--missing-distance",
        type=float,
        metavar="MM",
        help="what an instance that is not identified counts in localisation_distance (default: nothing)",
    )
    how.add_argument("--resample", choices=("nearest",), help="bring predictions from other grids onto the reference's")
    how.add_argument(
        "--nsd-tolerance", type=float, default=1.0, metavar="MM", help="tolerance of nsd (default: 1.0 mm)"
    )


def _add_cohort(parser: argparse.ArgumentParser) -> None:
    cohort = parser.add_argument_group("statistics and tables")
    cohort.add_argument(
        "--cases",
        metavar="FILE",
        help="cases.json, or a table with case, subject, contrast, …; default: the cases.json beside the references",
    )
    cohort.add_argument(
        "--by", nargs="+", default=(), metavar="KEY", help="means per value of a fact in cases.json, e.g. manufacturer"
    )
    cohort.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples of the subjects for the 95 %% intervals; 0: none (default: 1000)",
    )
    cohort.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the resampling (default: 0)")
    cohort.add_argument(
        "--latex",
        nargs="?",
        const="mean",
        choices=("mean", "median"),
        help="write summary.tex too: mean and sd, or median and quartiles (default without a word: mean)",
    )


def _add_areas(parser: argparse.ArgumentParser) -> None:
    areas = parser.add_argument_group("cross-sectional area")
    areas.add_argument("--csa", action="store_true", help="compare areas of the cord instead of masks")
    add_area_options(areas)


def add_area_options(areas: argparse._ArgumentGroup) -> None:
    """Add the options of everything that compares areas."""
    areas.add_argument("--cord", metavar="NAME", help="label of the cord in label maps, name or id (default: cord)")
    areas.add_argument(
        "--maps",
        choices=("auto", "soft", "hard"),
        default="auto",
        help="soft: the folder soft inside the predictions; auto: where there is one (default: auto)",
    )
    areas.add_argument(
        "--mode",
        choices=("sct", "pv"),
        default="sct",
        help="sct: as the Spinal Cord Toolbox; pv: sum of partial volumes (default: sct)",
    )
    areas.add_argument(
        "--level-range",
        nargs="+",
        default=(),
        metavar="LEVELS",
        help="average these levels (C2:C3 or 2:3), several ranges one by one (default: all slices)",
    )
    areas.add_argument("--levels", metavar="DIR", help="labelled cords: their values are levels")
    areas.add_argument("--discs", metavar="DIR", help="discs as single voxels (3 is C2/C3), or points (.json)")
    areas.add_argument(
        "--contrast", default="contrast", metavar="KEY", help="fact in cases.json: the contrast (default: contrast)"
    )
    areas.add_argument(
        "--ddof",
        type=int,
        choices=(0, 1),
        default=1,
        help="STD over contrasts of a sample (1) or of the population (0) (default: 1)",
    )
    areas.add_argument(
        "--margin", type=float, default=2.0, metavar="MM2", help="of the equivalence tests (default: 2.0 mm²)"
    )
    areas.add_argument(
        "--correction",
        choices=("holm", "bonferroni", "none"),
        default="holm",
        help="over all tests between contrasts (default: holm)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
