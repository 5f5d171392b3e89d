"""`nnUNetv2_spine_doctor`: is everything here able to work?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_spine_ext.cli.shell import add_json_option, make_parser, run, write_line

if TYPE_CHECKING:
    from nnunet_spine_ext.check.report import DoctorReport

PROG = "nnUNetv2_spine_doctor"
FUNCTION = "nnunet_spine_ext.check.doctor:doctor"

_EXAMPLES = """  nnUNetv2_spine_doctor
  nnUNetv2_spine_doctor --no-import
  nnUNetv2_spine_doctor -m nnUNet_results/Dataset501_SPIDER/nnUNetTrainerSpine__nnUNetPlans__3d_fullres
  nnUNetv2_spine_doctor --json > doctor.json"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its destinations are the parameters of `check.doctor.doctor`."""
    parser = make_parser(
        PROG,
        "Look at versions, nnU-Net's folders, memory, shared memory and disk; ask nnU-Net for the trainers and PyTorch "
        "for devices. With -m also at a model folder: complete, and without foreign code in its checkpoints.",
        _EXAMPLES,
    )
    parser.add_argument(
        "-m",
        dest="model",
        metavar="MODEL",
        default=None,
        help="model folder to look at (with plans.json, dataset.json, fold_0); unset folder variables become warnings",
    )
    parser.add_argument(
        "--no-import",
        action="store_true",
        help="leave out what needs an import of torch or nnU-Net: under 2 s, without trainers, devices and checkpoints",
    )
    add_json_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    at_once = arguments.shell_json or arguments.shell_quiet
    return run(parser, FUNCTION if at_once else _section_by_section, argv)


class _Shown:
    """A report whose sections are on the console already."""

    def __init__(self, report: DoctorReport) -> None:
        self.exit_code = report.exit_code
        self.render = lambda: report.verdict


def _section_by_section(model: str | None, *, no_import: bool) -> _Shown:
    """Show every section as soon as it is known; the first ones need no import of torch."""
    from nnunet_spine_ext.check.doctor import examine
    from nnunet_spine_ext.check.report import DoctorReport

    report = DoctorReport()
    for section in examine(model, no_import=no_import):
        write_line(section.render())
        report.sections.append(section)
    return _Shown(report)
