"""Options about what is done to a semantic mask, shared by the commands that do it."""

from __future__ import annotations

import argparse


def add_phase_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of instances, numbering and their outputs."""
    parser.add_argument("--instance-model", metavar="FOLDER", help="instance network (default: without a network)")
    parser.add_argument(
        "--numbering", action="store_true", help="say which vertebra is which, where something in the mask tells"
    )
    parser.add_argument("--numbering-model", metavar="FOLDER", help="network that names vertebrae; implies --numbering")
    parser.add_argument(
        "--first-vertebra",
        metavar="LEVEL",
        help="level of the uppermost vertebra in the picture, such as T12; implies --numbering",
    )
    parser.add_argument(
        "--enforce",
        action="store_true",
        help="12 thoracic and 5 lumbar vertebrae, no anomaly; implies --numbering",
    )
    parser.add_argument("--snapshots", action="store_true", help="also write a picture per case to snapshots/")
    parser.add_argument(
        "--bids", action="store_true", help="also write the results under BIDS names to derivatives_seg/"
    )
