"""nnUNetv2_spine_phantom: make digital spines with their truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run
from nnunet_spine_ext.phantom.protocols import PROTOCOLS

PROG = "nnUNetv2_spine_phantom"
FUNCTION = "nnunet_spine_ext.phantom.generate:phantom"
_DESCRIPTION = """Make digital spines, scan them, and write images with exact labels.

Each spine has its own size, posture, number of vertebrae and findings; images come from signal equations, coils,
k-space and noise. Equal options give equal bytes. The result is an nnU-Net raw dataset (labels of scheme nnunet14,
instancesTr, phantomTr with the anatomy, cases.json, splits grouped by spine) or a BIDS tree."""
_EXAMPLES = """  nnUNetv2_spine_phantom -o "$nnUNet_raw" --n 8 --protocol t2w_sagittal --seed 0
  nnUNetv2_spine_phantom -o out --n 20 --protocol t2w_sagittal t1w_sagittal --region lumbar --spacing 1.5 1.5 3
  nnUNetv2_spine_phantom -o out --n 12 --scanner ge-1.5t philips-3t siemens-1.5t:bias=0
  nnUNetv2_spine_phantom -o out --n 12 --vendor siemens-essenza philips-intera --region lumbar
  nnUNetv2_spine_phantom -o out --n 4 --layout bids --name phantoms --anomalies L6 --set scoliosis=30"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the protocols come from their table."""
    rows = "\n".join(f"  {row.name:18}{row.description}" for row in PROTOCOLS.values())
    parser = make_parser(PROG, f"{_DESCRIPTION}\n\nprotocols:\n{rows}", _EXAMPLES)
    add_json_option(parser)
    _add_output(parser)
    scan = parser.add_argument_group("scan")
    # Names are checked by the function, which suggests the nearest one.
    scan.add_argument("--protocol", nargs="+", default=("t2w_sagittal",), metavar="NAME", help="default: t2w_sagittal")
    scan.add_argument(
        "--scanner",
        nargs="+",
        default=(),
        metavar="PROFILE[:COMPONENT=SEVERITY...]",
        help="scan as this scanner does: ge-1.5t, ge-3t:noise=0.5, ge-3t..ge-1.5t@0.5, all=0:noise=1, a .yaml file; "
        "of several, spines take turns",
    )
    scan.add_argument(
        "--vendor",
        nargs="+",
        default=(),
        metavar="NAME",
        help="instead of protocols, published T1w protocols: siemens-essenza, siemens-essenza-varied, siemens-amira, "
        "philips-intera, philips-gyroscan-intera, philips-ingenia, philips-ingenia-cx, philips-elition-x; of several, "
        "spines take turns",
    )
    scan.add_argument("--region", default="whole", metavar="PART", help="whole, cervical, thoracic or lumbar")
    scan.add_argument(
        "--spacing",
        nargs=3,
        type=float,
        metavar="MM",
        help="voxel size in plane, in plane, between slices (default: the protocol's)",
    )
    scan.add_argument("--oblique", type=float, default=0.0, metavar="DEG", help="largest tilt (default: 0)")
    scan.add_argument("--width", type=float, metavar="MM", help="extent from left to right (default: the protocol's)")
    scan.add_argument("--supersample", type=int, metavar="N", help="sub-voxels per axis (default: below 1.1 mm)")
    anatomy = parser.add_argument_group("anatomy")
    anatomy.add_argument("--n", type=int, default=8, metavar="N", help="number of spines (default: 8)")
    anatomy.add_argument("--seed", type=int, default=0, help="default: 0")
    anatomy.add_argument(
        "--anomalies",
        default="natural",
        metavar="KIND",
        help="natural, none, oversample, or last vertebrae such as T11, T13, L4, L6, T11+L6 (default: natural)",
    )
    anatomy.add_argument(
        "--healthy", dest="pathologies", action="store_false", default=True, help="spines without findings"
    )
    anatomy.add_argument(
        "--set",
        dest="overrides",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="for all spines, repeatable: sex, age, stature, bmi, lordosis, kyphosis, cervical, scoliosis, ...; "
        "findings as kind:level[:severity[:side]], such as findings=fused:L3,missing_disc:L4",
    )
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("-o", required=True, metavar="DIR", help="nnUNet_raw, or the folder that gets the BIDS tree")
    output.add_argument("--layout", default="nnunet", metavar="KIND", help="nnunet or bids (default: nnunet)")
    output.add_argument(
        "-d", "--dataset-id", type=int, default=900, metavar="ID", help="nnU-Net's dataset id (default: 900)"
    )
    output.add_argument("--name", default="SpinePhantom", help="name of the dataset (default: SpinePhantom)")
    output.add_argument("--folds", type=int, default=5, metavar="K", help="folds of the split (default: 5)")
    output.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    output.add_argument("--overwrite", action="store_true", help="replace a dataset of the same id and name")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
