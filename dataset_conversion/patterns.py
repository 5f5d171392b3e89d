"""File patterns that remember what their wildcards matched.

A pattern is a path in which ``*``, ``?``, ``[abc]`` and ``**`` match as in a shell, ``{name}`` matches like ``*`` and
gives the match a name, and ``{name=value}`` matches nothing and states a fact about all files of the pattern, for
example ``{site=Basel}``. A repeated ``{name}`` must match the same text again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, is_image

_SINGLE = r"\*|\?|\[!?\]?[^\]/]*\]"
# Wildcards without text between them are one: `sub-0?` and `sub-[0-9]*` have one match each.
_TOKEN = re.compile(rf"(?:{_SINGLE})+|\{{[^{{}}]*\}}")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?:=([^{}]*))?\}")


@dataclass(frozen=True)
class Match:
    """A file that a pattern found.

    Parameters
    ----------
    path: the file.
    relative: its path below the part of the pattern that has no wildcard, with forward slashes.
    stars: what the nameless wildcards matched, in order.
    named: what the placeholders matched, by name.
    groups: what each wildcard and placeholder matched, in order.
    """

    path: Path
    relative: str
    stars: tuple[str, ...]
    named: dict[str, str]
    groups: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The path components that wildcards matched, in order, each once."""
        parts = [word for text in self.groups for word in text.strip("/").split("/") if word]
        return tuple(dict.fromkeys(parts))

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """What two files have in common when they belong to one case."""
        return self.stars, tuple(sorted(self.named.items()))


@dataclass(frozen=True)
class Pattern:
    """A parsed file pattern; see the module's text for the syntax.

    Parameters
    ----------
    text: as the user wrote it.
    root: the folder before the first wildcard.
    parts: path components below it, facts removed.
    facts: values of ``{name=value}``.
    """

    text: str
    root: Path
    parts: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parse a pattern; raises UsageError for a malformed placeholder or an empty pattern."""
        facts: dict[str, str] = {}

        def take(token: re.Match[str]) -> str:
            placeholder = _PLACEHOLDER.fullmatch(token.group())
            if placeholder is None:
                raise UsageError(
                    "E-PAIR-PATTERN",
                    file=text,
                    found=f"the placeholder {token.group()}",
                    expected="{name}, or {name=value} for a fact, names of letters, digits and '_'",
                    fix="correct the pattern",
                )
            if placeholder.group(2) is None:
                return token.group()
            facts[placeholder.group(1)] = placeholder.group(2).strip()
            return ""

        bare = re.sub(r"\{[^{}]*\}", take, text)
        if not bare.strip("/ "):
            raise UsageError(
                "E-PAIR-PATTERN", file=text, found="an empty pattern", expected="a path", fix="write the path"
            )
        parts = Path(bare).expanduser().parts
        literal = next((k for k, part in enumerate(parts) if _TOKEN.search(part)), len(parts) - 1)
        return cls(text, Path(*parts[:literal]) if literal else Path(), tuple(parts[literal:]), facts)

    @property
    def signature(self) -> tuple[int, tuple[str, ...]]:
        """Number of nameless wildcards and sorted names of placeholders: equal for patterns that can be paired."""
        names, stars = set(), 0
        for token in _tokens(self.parts):
            placeholder = _PLACEHOLDER.fullmatch(token)
            if placeholder is None:
                stars += 1
            else:
                names.add(placeholder.group(1))
        return stars, tuple(sorted(names))

    @property
    def has_wildcards(self) -> bool:
        """Whether the pattern can match more than one file."""
        return any(_TOKEN.search(part) for part in self.parts)

    def fill(self, match: Match) -> str:
        """Return the path that this pattern would have for the file that another pattern found."""
        stars = iter(match.stars)

        def text_of(token: re.Match[str]) -> str:
            placeholder = _PLACEHOLDER.fullmatch(token.group())
            return next(stars, "*") if placeholder is None else match.named.get(placeholder.group(1), "*")

        return str(self.root / "/".join(_TOKEN.sub(text_of, part).strip("/") for part in self.parts))

    def matches(self) -> list[Match]:
        """Return the files of the pattern, sorted by path.

        Hidden files and folders are found only by components that start with a dot. A last component that ends in a
        wildcard finds images only. Links that lead nowhere are found: their content has to be reported as missing.
        """
        images_only = bool(re.search(r"[*?\]}]$", self.parts[-1]))
        expression = re.compile(_expression(self.parts))
        found = []
        for relative in sorted(set(_walk(self.root, self.parts))):
            matched = expression.fullmatch(relative)
            if matched is not None and (not images_only or is_image(relative)):
                found.append(_match(self.root, relative, matched))
        return found


def _match(root: Path, relative: str, matched: re.Match[str]) -> Match:
    # `images/*` and `labels/*` are to pair whatever the formats are, hence without suffix.
    groups = {name: _bare(text) for name, text in matched.groupdict().items()}
    stars = tuple(text for name, text in groups.items() if name.startswith("_star"))
    named = {name.removeprefix("_name_"): text for name, text in groups.items() if name.startswith("_name_")}
    return Match(root / relative, relative, stars, named, tuple(groups.values()))


def _bare(text: str) -> str:
    """Remove an image suffix; `t2.*` leaves the suffix without its dot."""
    if f".{text.lower()}" in IMAGE_SUFFIXES:
        return ""
    suffix = next((end for end in IMAGE_SUFFIXES if text.lower().endswith(end)), "")
    return text[: len(text) - len(suffix)]


def _tokens(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts:
        yield from _TOKEN.findall(part)


def _expression(parts: tuple[str, ...]) -> str:
    """Regular expression for a relative path, with one group per wildcard in the order of the pattern."""
    seen: set[str] = set()
    pieces, stars = [], 0
    for k, part in enumerate(parts):
        last = k == len(parts) - 1
        if part == "**":
            pieces.append(f"(?P<_star{stars}>(?:[^/]+/)*)" if not last else f"(?P<_star{stars}>.+)")
            stars += 1
            continue
        position = 0
        for token in _TOKEN.finditer(part):
            pieces.append(re.escape(part[position : token.start()]))
            position = token.end()
            placeholder = _PLACEHOLDER.fullmatch(token.group())
            if placeholder is None:
                pieces.append(f"(?P<_star{stars}>{_body(token.group())})")
                stars += 1
            elif placeholder.group(1) in seen:
                pieces.append(f"(?P=_name_{placeholder.group(1)})")
            else:
                seen.add(placeholder.group(1))
                pieces.append(f"(?P<_name_{placeholder.group(1)}>[^/]+)")
        pieces.append(re.escape(part[position:]) + ("" if last else "/"))
    return "".join(pieces)


def _body(wildcards: str) -> str:
    """Regular expression for a run of wildcards within one path component."""
    return "".join(_single(wildcard) for wildcard in re.findall(_SINGLE, wildcards))


def _single(wildcard: str) -> str:
    if wildcard in ("*", "?"):
        return "[^/]*" if wildcard == "*" else "[^/]"
    negated = wildcard.startswith("[!")
    inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", wildcard[2 if negated else 1 : -1])
    return f"[^/{inner}]" if negated else f"[{inner}]"


def _walk(folder: Path, parts: tuple[str, ...], before: str = "") -> Iterator[str]:
    """Yield paths, relative to the pattern's root, whose components match one by one."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _walk_deep(folder, rest, before)
        return
    if not _TOKEN.search(part):
        names = [part] if os.path.lexists(folder / part) else []
    else:
        expression = re.compile(_expression((re.sub(r"\{[^{}]*\}", "*", part),)))
        names = [name for name in _names(folder) if expression.fullmatch(name) and _visible(name, part)]
    for name in names:
        path = folder / name
        if rest and path.is_dir():
            yield from _walk(path, rest, f"{before}{name}/")
        elif not rest and not path.is_dir():
            yield before + name


def _walk_deep(folder: Path, rest: tuple[str, ...], before: str) -> Iterator[str]:
    """`**`: this folder and all below it; links to folders are not followed, they could form a circle."""
    yield from _walk(folder, rest or ("*",), before)
    for name in _names(folder):
        path = folder / name
        if path.is_dir() and not path.is_symlink() and not name.startswith("."):
            yield from _walk_deep(path, rest, f"{before}{name}/")


def _visible(name: str, part: str) -> bool:
    return not name.startswith(".") or part.startswith(".")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are needed, not paths
    except OSError:
        return []
