"""nnU-Net v2 plugin for spine MRI and CT."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `trainers/` and `dataset_conversion/` lie beside this package, in a wheel inside it.
# Extending the path makes `nnunet_spine_ext.trainers` resolve in both, whichever copy Python finds first.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file() and (_checkout / "trainers" / "__init__.py").is_file():
    __path__.append(str(_checkout))
