"""`nnUNetv2_spine_train_numbering`: train the network that names vertebrae."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_spine_ext.cli.shell import make_parser, run
from nnunet_spine_ext.cli.train_folds import add_training

PROG = "nnUNetv2_spine_train_numbering"
FUNCTION = "nnunet_spine_ext.numbering.training.run:train_numbering"

_DESCRIPTION = """Train the network that says which vertebra is which, for the numbering.

It looks at a patch around each vertebra: the image, and masks of this and of all vertebrae. It learns from imagesTr,
labelsTr and instancesTr of a raw dataset, where instancesTr holds levels (C1 is 1, T1 8, L1 20). It answers with
probabilities of region, level, group, first and last of a region, T13, and whether the vertebra is wholly in the
picture; the solver makes a sequence of them. The model folder gets numbering_model.json and one file of weights per
fold."""
_EXAMPLES = f"""  {PROG} -d 501 -f 0 1 2 3 4
  # without a GPU: a small network on coarse voxels
  {PROG} -d 900 --preset cpu -device cpu
  {PROG} -d 501 -f 0 --resume
  # for images of any kind: masks alone
  {PROG} -d 501 --set crop.inputs=masks --name numbering_masks"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLES)
    add_training(parser, name="numbering", settings="epochs=50, learning_rate=1e-3, crop.inputs=image, loss.t13=0")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(build_parser(), FUNCTION, argv)
