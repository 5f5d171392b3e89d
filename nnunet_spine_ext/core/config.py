"""Settings: frozen dataclasses read from YAML or JSON; an unknown key is an error that names the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nnunet_spine_ext.core.errors import UsageError

T = TypeVar("T")

_EXPONENT = re.compile(r"[+-]?\d+[eE][+-]?\d+")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'gamma'? known: …`` for an unknown name."""
    choices = sorted(str(k) for k in known)
    # Case does not make names less alike.
    folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}known: {', '.join(choices)}"


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds one mapping; raises UsageError naming the file."""
    import yaml

    path = Path(path)
    if not path.exists():
        raise UsageError(
            "E-CONFIG-READ", file=path, found="no such file", expected="YAML or JSON", fix="correct the name"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            "E-CONFIG-READ",
            file=path,
            found=f"cannot be read ({error})",
            expected="YAML or JSON",
            fix="correct the file",
        ) from error
    if not isinstance(content, dict):
        raise UsageError(
            "E-CONFIG-READ",
            file=path,
            found=f"a {type(content).__name__}",
            expected="a mapping of names to values",
            fix="write `name: value` lines",
        )
    return content


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Let errors about what is in a file name the file."""
    try:
        yield
    except UsageError as error:
        if str(path) in error.file:
            raise
        raise UsageError(
            error.code, file=f"{path}: {error.file}", found=error.found, expected=error.expected, fix=error.fix
        ) from error


def load_config(cls: type[T], source: Mapping[str, Any], *, where: str = "settings") -> T:
    """Build the frozen dataclass `cls` from a mapping; nested dataclasses are built from nested mappings.

    Parameters
    ----------
    cls: a dataclass type; fields without default must be present in `source`.
    where: how errors name the place, for example a file name.

    Raises
    ------
    UsageError: unknown key, missing key, a value of the wrong type, or no mapping at all.
    """
    if not isinstance(source, Mapping):
        raise UsageError(
            "E-CONFIG-VALUE",
            file=where,
            found=repr(source),
            expected="keys with values",
            fix=f"known: {', '.join(field.name for field in dataclasses.fields(cls))}",  # type: ignore[arg-type]
        )
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in source.items():
        if key not in known:
            raise UsageError(
                "E-CONFIG-KEY",
                file=where,
                found=f"unknown key {key!r}",
                expected="a known key",
                fix=nearest(str(key), known),
            )
        values[key] = _convert(hints[key], value, f"{where}: {key}")
    missing = [n for n, f in known.items() if n not in values and _required(f)]
    if missing:
        raise UsageError(
            "E-CONFIG-KEY",
            file=where,
            found=f"no value for {', '.join(missing)}",
            expected="every required key",
            fix="add the key",
        )
    return cls(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON values (tuples become lists)."""
    return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def check_ranges(config: Any, limits: Mapping[str, tuple[float, float]], *, where: str) -> None:
    """Raise UsageError when numbers of a configuration lie outside their limits.

    Parameters
    ----------
    limits: smallest and largest value by name of the field; both are allowed. NaN lies outside of any.
    where: what the message names.
    """
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise UsageError(
                "E-CONFIG-RANGE",
                file=where,
                found=f"{name}={value}",
                expected=f"{low:g} to {high:g}",
                fix="correct the value",
            )


def set_by_path(target: dict[str, Any], assignment: str) -> None:
    """Apply ``a.b.c=value`` (value is YAML: 3, true, [1, 2], text) to a nested dict, in place.

    Raises UsageError when there is no ``=``, when the value is no YAML and when a parent is a value.
    """
    import yaml

    path, separator, text = assignment.partition("=")
    if not separator or not path:
        raise UsageError(
            "E-CONFIG-SET",
            file="--set",
            found=repr(assignment),
            expected="key=value, for example train.num_epochs=50",
            fix="write key=value",
        )
    *parents, last = path.strip().split(".")
    for part in parents:
        child = target.setdefault(part, {})
        if not isinstance(child, dict):
            raise UsageError(
                "E-CONFIG-SET",
                file="--set",
                found=f"{part!r} in {path!r} is a value",
                expected="a group",
                fix="shorten the key",
            )
        target = child
    try:
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            "E-CONFIG-SET",
            file="--set",
            found=repr(assignment),
            expected="a YAML value",
            fix="close quotes and brackets",
        ) from error


_WORDS = {False: ("off", "no"), True: ("on", "yes")}


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        # With one choice left its own error says more: which key of a nested group is unknown, for example.
        for option in options if len(options) > 1 else ():
            try:
                return _convert(option, value, where)
            except UsageError:
                continue
        if len(options) == 1:
            return _convert(options[0], value, where)
        raise _wrong(value, hint, where)
    if origin is typing.Literal:
        if isinstance(value, bool):
            # YAML takes the words off and on for booleans.
            value = next((word for word in _WORDS[value] if word in arguments), value)
        if value not in arguments:
            fix = nearest(str(value), map(str, arguments))
            raise UsageError("E-CONFIG-VALUE", file=where, found=repr(value), expected="a known choice", fix=fix)
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], v, where) for v in value)
        if len(value) == len(arguments):
            return tuple(_convert(a, v, where) for a, v in zip(arguments, value, strict=True))
        raise _wrong(value, hint, where)
    if origin is dict and isinstance(value, dict):
        return {_convert(arguments[0], k, where): _convert(arguments[1], v, where) for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return load_config(typing.cast("type[Any]", hint), value, where=where)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    # bool is an int in Python; a setting that says 3 where true was meant is a mistake.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # YAML takes 1e-3 for text, because it wants a dot before the exponent.
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise _wrong(value, hint, where)


def _wrong(value: Any, hint: Any, where: str) -> UsageError:
    name = getattr(hint, "__name__", str(hint))
    return UsageError(
        "E-CONFIG-VALUE", file=where, found=f"{value!r}", expected=f"a value of type {name}", fix="correct the value"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
