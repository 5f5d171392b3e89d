"""`nnUNetv2_spine_train_instances`: train the network that separates vertebrae."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import make_parser, run
from nnunet_spine_ext.cli.train_folds import add_training

PROG = "nnUNetv2_spine_train_instances"
FUNCTION = "nnunet_spine_ext.instances.training.run:train_instances"

_DESCRIPTION = """Train the network that separates vertebrae from each other, for the instance phase.

It learns from masks alone: labelsTr (the 14 classes, or whole vertebrae with discs and canal as in SPIDER) and
instancesTr of a raw dataset. Cutouts around each vertebra go in; which voxels belong to the one above, in the centre
and below comes out. The model folder gets instance_model.json and one file of weights per fold."""
_EXAMPLES = f"""  {PROG} -d 501 -f 0 1 2 3 4
  # without a GPU: a small network on coarse voxels, in under 40 minutes of one core
  {PROG} -d 900 --preset cpu -device cpu
  {PROG} -d 501 -f 0 --resume
  # masks of whole vertebrae, as SPIDER has them
  {PROG} -d 502 --set cutout.encoding=body epochs=200 --name spider"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    add_training(
        parser, name="instances", settings="epochs=100, learning_rate=1e-3, augment.flip=0, cutout.encoding=body"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
