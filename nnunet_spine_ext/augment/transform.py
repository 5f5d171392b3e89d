"""The base of all transforms: what one draws, and how it enters the stage that applies it.

A transform is one file in `transforms/`: a frozen dataclass whose fields are the keys of the configuration.

    @dataclass(frozen=True, kw_only=True)
    class Multiply(Transform, stage="field"):
        \"\"\"One line for the documentation.\"\"\"

        p: float = 0.2
        factor: Range = spread([0.8, 1.25], limits=(0.01, 100), neutral=1.0)

        def sample(self, rng, context):
            return {"factor": self.draw(rng, "factor", context)}

        def contribute(self, builder, index, params, context):
            builder.multiply(index, params["channels"], params["factor"])

`sample` draws everything, a seed for bulk noise among it, and returns plain JSON. `contribute` is deterministic and
reads the parameters alone, never the fields of the transform: so a record of parameters replays exactly.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, cast

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, is_range, parse_field
from nnunet_spine_ext.core.config import load_config, nearest
from nnunet_spine_ext.core.errors import UsageError

STAGES: tuple[str, ...] = ("warp", "table", "local", "axis", "kspace", "field", "noise", "final")
"""The stages in the order in which they are applied."""

Params = dict[str, Any]

_REGISTRY: dict[str, type[Transform]] = {}


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """Base of all transforms.

    `p`: probability per sample. `p_batch`: probability that any sample of a batch gets it, one coin for all of them;
    both have to fall right. `channels`: which image channels it acts on. `per_channel`: draw for each channel
    alone. `graded`: whether a strength below 1 makes the effect weaker; else it makes it rarer.
    """

    name: ClassVar[str] = ""
    stage: ClassVar[str] = ""
    graded: ClassVar[bool] = True

    p: float = 0.0
    p_batch: float = 1.0
    channels: Literal["all"] | tuple[int, ...] = "all"
    per_channel: bool = False

    def __init_subclass__(cls, *, stage: str | None = None, **options: Any) -> None:
        """Register a concrete transform (one that names its stage) under its name in snake case."""
        super().__init_subclass__(**options)
        if stage is None:
            return
        if stage not in STAGES:
            msg = f"{cls.__name__}: unknown stage {stage!r}, one of {', '.join(STAGES)}"
            raise ValueError(msg)
        cls.stage = stage
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        _REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        """Check the probability and bring ranges given as numbers or lists to `Range`."""
        for item in dataclasses.fields(self):
            if is_range(item):
                object.__setattr__(self, item.name, parse_field(item, getattr(self, item.name), self.name))
        self.check_share("p", "p_batch")
        if self.channels != "all" and (not self.channels or len(set(self.channels)) < len(self.channels)):
            raise UsageError(
                "E-CONFIG-VALUE",
                file=f"{self.name}: channels",
                found=str(list(self.channels)),
                expected="all, or different channels",
                fix="correct it",
            )

    def check_share(self, *fields: str) -> None:
        """Refuse probabilities outside 0 to 1; for `__post_init__` of transforms that have some of their own."""
        for name in fields:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(
                    "E-CONFIG-RANGE", file=f"{self.name}: {name}", found=str(value), expected="0 to 1", fix="correct it"
                )

    @abstractmethod
    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw all parameters as plain JSON values; the pipeline adds the key `channels`."""

    @abstractmethod
    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the parameters of sample `index` to the builder of the stage; nothing random, no fields of self."""

    def draw(self, rng: np.random.Generator, field: str, context: Context) -> float:
        """Draw from the range in `field`, moved towards its neutral value by the strength of the context."""
        item = next(f for f in dataclasses.fields(self) if f.name == field)
        neutral = cast("float | None", item.metadata.get("neutral"))
        return cast("Range", getattr(self, field)).scaled(rng, neutral, context.strength)

    def with_content(self) -> Transform:
        """Return the same with what is in files in place of their names; transforms that read any say how."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings as plain JSON, in the form the configuration is written in."""
        result: dict[str, Any] = {"name": self.name}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            result[item.name] = value.plain() if isinstance(value, Range) else _plain(value)
        return result


@cache
def _load_all() -> None:
    """Import every file in `transforms/`: importing registers."""
    from nnunet_spine_ext.augment import transforms

    for module in pkgutil.iter_modules(transforms.__path__):
        importlib.import_module(f"{transforms.__name__}.{module.name}")


def registry() -> dict[str, type[Transform]]:
    """Return all transforms by name."""
    _load_all()
    return dict(sorted(_REGISTRY.items()))


def find(name: str, *, where: str = "transforms") -> type[Transform]:
    """Return a transform by name.

    Raises
    ------
    UsageError: unknown name; says the nearest one.
    """
    known = registry()
    if name not in known:
        raise UsageError(
            "E-AUG-NAME",
            file=where,
            found=f"no transform {name!r}",
            expected="a known transform",
            fix=nearest(name, known),
        )
    return known[name]


def build(name: str, settings: Mapping[str, Any] | None = None, *, where: str = "transforms") -> Transform:
    """Make a transform from its name and settings as they stand in a configuration.

    Raises
    ------
    UsageError: unknown name or key, a value of the wrong type, an impossible range.
    """
    cls = find(name, where=where)
    place = f"{where}: {name}"
    items = {item.name: item for item in dataclasses.fields(cls)}
    if "where" in (settings or {}) and "where" not in items:
        raise UsageError(
            "E-CONFIG-KEY",
            file=f"{place}: where",
            found=f"labels for a transform of the stage {cls.stage}",
            expected="where for transforms of the stages table, local, field and noise alone",
            fix="leave it out: what moves, samples, scans or scales an image does so to all of it",
        )
    values = {
        key: parse_field(items[key], value, place) if key in items and is_range(items[key]) else value
        for key, value in (settings or {}).items()
    }
    return load_config(cls, values, where=place)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
