"""`nnUNetv2_spine_harmonize`: make slices of any scanner look like those of one; train, apply, evaluate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli import harmonize_apply, harmonize_evaluate, harmonize_segmenter, harmonize_train
from nnunet_spine_ext.cli.shell import make_parser, run

PROG = "nnUNetv2_spine_harmonize"
FUNCTION = harmonize_train.FUNCTION
# One module per action; each adds its sub-command.
ACTIONS = (harmonize_segmenter, harmonize_train, harmonize_apply, harmonize_evaluate)

_EXAMPLES = f"""  {PROG} segmenter -d 701 --target Siemens -o models/discs
  {PROG} train -d 701 --target Siemens --source Philips GE --segmenter models/discs
  {PROG} apply -i scans -o harmonized -m models/harmonizer
  {PROG} evaluate -o evaluation --preset cpu --jobs 2
  {PROG} train --help"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with its sub-commands."""
    parser = make_parser(PROG, "Make sagittal slices of any scanner look like those of a target scanner.", _EXAMPLES)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for action in ACTIONS:
        action.add_parser(actions)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run(build_parser(), FUNCTION, argv)
