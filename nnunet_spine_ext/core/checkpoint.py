"""Loading checkpoints without running code that they carry.

`torch.load(weights_only=True)` refuses nnU-Net's own checkpoints, because they hold numpy scalars (`_best_ema`, the
logger's lists). The few numpy names needed for those are allowed here; anything else is refused by name.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import SetupError

logger = logging.getLogger(__name__)


def load_checkpoint(path: str | Path, *, trust: bool = False, allow: Sequence[Any] = ()) -> dict[str, Any]:
    """Load a checkpoint to the CPU.

    Parameters
    ----------
    allow: further classes that may be in it; they must be inert.
    trust: allow arbitrary pickled code (a warning says so). Only for files whose origin is known.

    Raises
    ------
    SetupError: missing or damaged file, no dictionary, or (without `trust`) code other than tensors, plain Python
        values and numpy scalars.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise SetupError(
            "E-MODEL-CHECKPOINT",
            file=path,
            found="no such file",
            expected="a checkpoint",
            fix="finish the training or choose another fold or checkpoint (-f, -chk)",
        )
    try:
        if trust:
            logger.warning("%s is loaded with --trust: code inside it runs", path)
            content = torch.load(path, map_location="cpu", weights_only=False)
        else:
            with torch.serialization.safe_globals([*_numpy_globals(), *allow]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:
        # Damaged pickles raise anything: IndexError, struct.error, AttributeError for a class that is gone, …
        raise SetupError(
            "E-MODEL-CHECKPOINT",
            file=path,
            found=f"cannot be read ({type(error).__name__}: {str(error)[:200]})",
            expected="a complete checkpoint",
            fix="copy or download it again, or use another checkpoint",
        ) from error
    if not isinstance(content, dict):
        raise SetupError(
            "E-MODEL-CHECKPOINT",
            file=path,
            found=f"a {type(content).__name__}",
            expected="a dictionary with the weights of a network",
            fix="choose another file",
        )
    return content


def _refused(path: Path, error: Exception) -> SetupError:
    text = " ".join(str(error).split())
    name = re.search(r"\b(?:GLOBAL|global|class|type) ([\w.]+\.\w+)", text)
    if name is None:
        # torch's message advises to load without protection; only its own finding is of use here.
        reason = text.partition("error: ")[2].partition(" Check the documentation")[0] or text
        return SetupError(
            "E-MODEL-CHECKPOINT",
            file=path,
            found=f"no checkpoint that can be loaded safely ({reason[:120]})",
            expected="a complete checkpoint written by torch.save",
            fix="copy it again; do not load it with another tool unless you know where it is from",
        )
    return SetupError(
        "E-MODEL-CODE",
        file=path,
        found=f"pickled code that is not on the list of allowed names ({name[1]})",
        expected="tensors, plain values and numpy scalars",
        fix="do not use the file unless you know where it is from; --trust loads it anyway and runs its code",
    )


def _numpy_globals() -> list[Any]:
    import _codecs

    import numpy as np

    scalar_types = [
        np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64,
        np.uint8, np.uint16, np.uint32, np.uint64, np.bool_,
    ]  # fmt: skip
    names: list[Any] = [np.dtype, np.ndarray, _codecs.encode, *scalar_types]
    names += [type(np.dtype(t)) for t in scalar_types]
    scalar, reconstruct = np._core.multiarray.scalar, np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    # Files written with numpy 1 name the same functions under numpy.core.
    names += [scalar, (scalar, "numpy.core.multiarray.scalar"), reconstruct]
    names.append((reconstruct, "numpy.core.multiarray._reconstruct"))
    return names
