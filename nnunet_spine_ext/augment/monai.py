"""Augmentation as MONAI dictionary transforms; needs the extra `monai`, which is imported when a class is asked for.

    from nnunet_spine_ext.augment.monai import RandSpineGammad, SpineAugmentBatchd, SpineAugmentd, monai_transform

`SpineAugmentd` applies a whole configuration to a sample in a `Compose`, `SpineAugmentBatchd` to a collated batch on
the device. Every transform of the registry also exists alone, under its name: `RandSpineGammad` for a sample,
`RandSpineGammaBatchd` for a batch; `monai_transform("gamma", …)` makes the same.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.ranges import Range
from nnunet_spine_ext.augment.transform import Transform, build, find, registry
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import SetupError, UsageError

if TYPE_CHECKING:
    from nnunet_spine_ext.augment.monai_dict import SpineAugmentBatchd, SpineAugmentd

__all__ = ["SpineAugmentBatchd", "SpineAugmentd", "monai_transform", "transform_names"]

_PREFIX, _ONE, _MANY = "RandSpine", "d", "Batchd"
_GENERAL = ("SpineAugmentBatchd", "SpineAugmentd")


def monai_transform(
    name: str,
    keys: str | Sequence[str],
    label_key: str | None = None,
    prob: float | None = None,
    *,
    batched: bool = False,
    **settings: Any,
) -> Any:
    """Return one transform of the registry as a MONAI dictionary transform.

    Parameters
    ----------
    name: as in a configuration, such as "gamma".
    keys, label_key: of images and label map.
    prob: probability that it fires on a sample; None: the default of the transform.
    batched: for a collated batch instead of a sample.
    settings: those of the transform, such as gamma=(0.7, 1.5), and the options of `SpineAugmentd`, such as pixdim.

    Raises
    ------
    UsageError: unknown transform or setting, or an impossible value. SetupError: MONAI is missing.
    """
    made = _single(find(name, where="monai_transform").name, batched)
    return made(keys, label_key, prob, **settings)


def transform_names() -> dict[str, str]:
    """Return the class names of single transforms for samples, with the names that configurations use."""
    return {f"{_PREFIX}{cls.__name__}{_ONE}": name for name, cls in registry().items()}


def __getattr__(name: str) -> Any:
    """Make the classes when they are asked for: only then is MONAI needed."""
    if name in _GENERAL:
        return getattr(_monai_dict(), name)
    if name.startswith(_PREFIX):
        batched = name.endswith(_MANY)
        known = transform_names()
        single = name.removesuffix(_MANY) + _ONE if batched else name
        if single in known:
            return _single(known[single], batched)
        msg = f"module {__name__!r} has no transform {name!r}; {nearest(single, known)}"
        raise AttributeError(msg)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """Return every name there is, made or not."""
    names = transform_names()
    return sorted([*globals(), *_GENERAL, *names, *(n.removesuffix(_ONE) + _MANY for n in names)])


@cache
def _monai_dict() -> Any:
    """Import what derives from MONAI's classes."""
    if importlib.util.find_spec("monai") is None:
        raise SetupError(
            "E-ENV-MONAI",
            file="nnunet_spine_ext.augment.monai",
            found="MONAI is not installed",
            expected="MONAI 1.3 or newer",
            fix="pip install 'nnunet-spine-ext[monai]'",
        )
    from nnunet_spine_ext.augment import monai_dict

    return monai_dict


@cache
def _single(name: str, batched: bool) -> Any:
    """Return the class of one transform; always the same, so that its objects can be sent to workers."""
    cls = registry()[name]
    base = _monai_dict().SpineAugmentBatchd if batched else _monai_dict().SpineAugmentd
    options = list(inspect.signature(base.__init__).parameters.values())[4:]
    own = {option.name for option in options} - {"prob"}
    usual = cls().p

    def initialise(
        self: Any, keys: Any, label_key: str | None = None, prob: float | None = None, **settings: Any
    ) -> None:
        given = {key: settings.pop(key) for key in list(settings) if key in own}
        _refuse_unknown(cls, settings, own, self)
        config = AugmentConfig((build(name, {**settings, "p": 1.0}, where=type(self).__name__),))
        base.__init__(self, keys, label_key, config, prob=usual if prob is None else prob, **given)

    return type(
        f"{_PREFIX}{cls.__name__}{_MANY if batched else _ONE}",
        (base,),
        {
            "__init__": initialise,
            "__doc__": _documentation(cls, base),
            "__module__": __name__,
            "__signature__": _signature(cls, options),
            # A name of its own: or with equal keys all transforms of a chain would fire on the same samples.
            "_stream": f"prob/{name}",
        },
    )


def _refuse_unknown(cls: type[Transform], settings: dict[str, Any], options: set[str], made: Any) -> None:
    known = [item.name for item in dataclasses.fields(cls) if item.name != "p"]
    for key in settings:
        if key not in known:
            raise UsageError(
                "E-CONFIG-KEY",
                file=type(made).__name__,
                found=f"unknown setting {key!r}",
                expected="a setting of the transform or an option of SpineAugmentd",
                fix="say prob" if key == "p" else nearest(key, [*known, *options, "prob"]),
            )


def _signature(cls: type[Transform], options: list[inspect.Parameter]) -> inspect.Signature:
    """Return what help() and editors show: keys, settings with their defaults, options."""
    usual = cls()
    settings = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=_plain(getattr(usual, item.name)))
        for item in dataclasses.fields(cls)
        if item.name != "p"
    ]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = [
        inspect.Parameter("keys", kind),
        inspect.Parameter("label_key", kind, default=None),
        inspect.Parameter("prob", kind, default=usual.p),
    ]
    rest = [option for option in options if option.name != "prob"]
    return inspect.Signature([*first, *settings, *rest])


def _documentation(cls: type[Transform], base: Any) -> str:
    scope = "a collated batch" if base.batched else "a sample"
    text = inspect.cleandoc(cls.__doc__ or "")
    return f"{text}\n\nFor {scope}; keys and all options that are no settings as in `{base.__name__}`."


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, Range) else value
