"""Which features stand for the style of a target: those that hardly differ between its slices and not twice the same.

Kim et al.'s two steps: the twenty features of the lowest coefficient of variation (CV), and of those, from the lowest
CV upwards, every one that correlates (Pearson) by no more than 0.8 with one kept before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.volume import Array

SELECTION_KIND = "radiomic_features"
SELECTION_VERSION = 1
SELECTION_FILE = "radiomics.json"
# Below these shares of a feature's root mean square, its spread and its mean are rounding.
_CONSTANT, _ZERO = 1e-7, 1e-6
_FEWEST = 3
_ALIKE, _NO_MEAN, _NO_NUMBER = "the same in all slices", "a mean of zero", "no number in some slice"


@dataclass(frozen=True)
class FeatureSelection:
    """What was chosen from a target set and from what; `to_dict` is stored with the model.

    Parameters
    ----------
    names: of the chosen features, from the lowest CV upwards.
    top: of the features with the lowest CV, in that order; `names` are some of them.
    variation: CV (standard deviation over the absolute mean) of every feature that has one.
    correlation: Pearson's coefficients of `top`, rows and columns in its order.
    dropped: of `top`, the features left out, each with the kept one that it correlates with most.
    unusable: features without CV, each with the reason.
    means, spreads: mean and standard deviation (n - 1) of every feature over the slices; what a loss aims at.
    n: slices.
    limit, absolute: the correlation from which a feature is left out, and whether its sign is ignored.
    """

    names: tuple[str, ...]
    top: tuple[str, ...]
    variation: Mapping[str, float]
    correlation: tuple[tuple[float, ...], ...]
    dropped: Mapping[str, str]
    unusable: Mapping[str, str]
    means: Mapping[str, float]
    spreads: Mapping[str, float]
    n: int
    limit: float = 0.8
    absolute: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the selection as plain JSON."""
        return {
            "kind": SELECTION_KIND,
            "version": SELECTION_VERSION,
            "names": list(self.names),
            "top": list(self.top),
            "variation": dict(self.variation),
            "correlation": [[round(value, 6) for value in row] for row in self.correlation],
            "dropped": dict(self.dropped),
            "unusable": dict(self.unusable),
            "means": dict(self.means),
            "spreads": dict(self.spreads),
            "n": self.n,
            "limit": self.limit,
            "absolute": self.absolute,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FeatureSelection:
        """Return a selection from JSON; more keys than its own may be there.

        Raises CaseError when it is none.
        """
        try:
            if content["kind"] != SELECTION_KIND or content["version"] != SELECTION_VERSION:
                raise KeyError("kind")
            numbers = [{str(k): float(v) for k, v in content[key].items()} for key in ("variation", "means", "spreads")]
            words = [{str(k): str(v) for k, v in content[key].items()} for key in ("dropped", "unusable")]
            top = tuple(str(name) for name in content["top"])
            matrix = tuple(tuple(float(value) for value in row) for row in content["correlation"])
            names = tuple(str(name) for name in content["names"])
            known = {*numbers[1]} >= {*top, *names} and {*numbers[2]} == {*numbers[1]} and {*names} <= {*top}
            if not known or len(matrix) != len(top) or any(len(row) != len(top) for row in matrix):
                raise ValueError("names")
            return cls(
                names, top, numbers[0], matrix, words[0], words[1], numbers[1], numbers[2],
                int(content["n"]), float(content["limit"]), bool(content["absolute"]),
            )  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CaseError(
                "E-RADIOMICS-SELECTION",
                found=f"no selection of features ({type(error).__name__}: {error})",
                expected=f'"kind": "{SELECTION_KIND}", "version": {SELECTION_VERSION}, and what save_selection writes',
                fix="copy the model again",
            ) from error


def select_features(
    rows: Sequence[Mapping[str, float]], *, top: int = 20, correlation: float = 0.8, absolute: bool = True
) -> FeatureSelection:
    """Choose features from those of many slices of one target.

    Parameters
    ----------
    rows: per slice its features by name, as `all_features` returns them.
    top: how many features of the lowest CV compete.
    correlation: one that correlates with a chosen one by more is left out.
    absolute: look at the size of the coefficient; False: opposites stay (the paper does not say which).

    Features that are the same in all slices (the highest value after min-max scaling, say), have a mean of zero, or are
    no number in some slice have no CV: they are left out and named.

    Raises
    ------
    UsageError: rows with other names than the first, or settings out of range.
    CaseError: fewer than three slices, or none of the features has a CV.
    """
    table, names = _table(rows, top, correlation)
    means, spreads = table.mean(axis=0), table.std(axis=0, ddof=1)
    variation, unusable = _variation(table, names)
    if not variation:
        raise CaseError(
            "E-RADIOMICS-FEW",
            file="features",
            found=f"{len(names)} features that do not differ between {len(table)} slices",
            expected="slices that differ",
            fix="take more slices, of several subjects",
        )
    # Equal variations keep the order of the features.
    ranked = tuple(sorted(variation, key=lambda name: variation[name])[:top])
    place = [names.index(name) for name in ranked]
    matrix = np.atleast_2d(np.corrcoef(table[:, place], rowvar=False))
    chosen, dropped = _apart(ranked, np.abs(matrix) if absolute else matrix, correlation)
    finite = [k for k, name in enumerate(names) if unusable.get(name) != _NO_NUMBER]
    return FeatureSelection(
        chosen,
        ranked,
        variation,
        tuple(tuple(float(value) for value in row) for row in matrix),
        dropped,
        unusable,
        {names[k]: float(means[k]) for k in finite},
        {names[k]: float(spreads[k]) for k in finite},
        len(table),
        correlation,
        absolute,
    )


def _table(rows: Sequence[Mapping[str, float]], top: int, correlation: float) -> tuple[Array, list[str]]:
    if top < 1 or not 0 < correlation <= 1:
        raise UsageError(
            "E-RADIOMICS-SETTINGS",
            file="select_features",
            found=f"top {top}, correlation {correlation:g}",
            expected="top from 1 on, correlation above 0 and up to 1",
            fix="correct them",
        )
    if len(rows) < _FEWEST:
        raise CaseError(
            "E-RADIOMICS-FEW",
            file="slices",
            found=str(len(rows)),
            expected=f"{_FEWEST} or more; correlations of few are chance",
            fix="take more slices of the target",
        )
    names = list(rows[0])
    for number, row in enumerate(rows):
        if set(row) != set(names):
            raise UsageError(
                "E-RADIOMICS-NAMES",
                file=f"slice {number}",
                found=f"other features than the first slice has ({', '.join(sorted(set(row) ^ set(names))[:3])})",
                expected="the same names in all rows",
                fix="compute all rows in one way",
            )
    return np.asarray([[row[name] for name in names] for row in rows], dtype=np.float64), names


def _variation(table: Array, names: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the CV of each feature that has one, and why the others have none."""
    variation, unusable = {}, {}
    for name, values in zip(names, table.T, strict=True):
        if not np.isfinite(values).all():
            unusable[name] = _NO_NUMBER
            continue
        size, mean, spread = float(np.sqrt((values**2).mean())), float(values.mean()), float(values.std(ddof=1))
        if spread <= _CONSTANT * size:
            unusable[name] = _ALIKE
        elif abs(mean) <= _ZERO * size:
            unusable[name] = _NO_MEAN
        else:
            variation[name] = spread / abs(mean)
    return variation, unusable


def _apart(ranked: Sequence[str], sizes: Array, limit: float) -> tuple[tuple[str, ...], dict[str, str]]:
    """Walk from the lowest CV upwards; keep what correlates with nothing kept before."""
    kept: list[int] = []
    dropped: dict[str, str] = {}
    for number, name in enumerate(ranked):
        nearest = max(kept, key=lambda k: float(sizes[number, k]), default=None)
        if nearest is not None and sizes[number, nearest] > limit:
            dropped[name] = ranked[nearest]
        else:
            kept.append(number)
    return tuple(ranked[k] for k in kept), dropped


def save_selection(path: str | Path, selection: FeatureSelection, extra: Mapping[str, Any] | None = None) -> Path:
    """Write a selection as JSON; `extra` are further keys, such as the targets that a loss was given."""
    write_json(path, {**selection.to_dict(), **(extra or {})})
    return Path(path)


def load_selection(path: str | Path) -> FeatureSelection:
    """Read a selection; raises CaseError naming the file when it is missing or none."""
    content = read_json(path)
    try:
        return FeatureSelection.from_dict(content if isinstance(content, Mapping) else {})
    except CaseError as error:
        raise CaseError(
            error.code, file=path, found=error.found, expected=error.expected, fix=error.fix
        ) from error.__cause__
