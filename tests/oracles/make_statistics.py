"""Compute reference values of statistics with statsmodels, pingouin and scipy, in an environment of their own.

    python tests/oracles/make_statistics.py --fixture tests/fixtures/oracle_statistics.json

`make oracles` builds the environment and calls this. The tables are stored with the numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pingouin
from scipy.stats import norm, ttest_rel
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.anova import AnovaRM, anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

mpl.use("Agg")
PACKAGES = ("statsmodels", "pingouin", "scipy", "numpy", "pandas")
MARGINS = (0.5, 2.0, 4.0)


def tables() -> dict[str, np.ndarray]:
    """Areas in mm², subjects by contrasts: a cohort, a small noisy one, two contrasts, one without any effect."""
    rng = np.random.default_rng(5)
    found = {}
    for name, n, k, shift, noise in (
        ("cohort", 12, 6, 1.0, 1.5), ("noisy", 6, 4, 0.5, 6.0), ("two", 15, 2, 2.0, 1.0), ("null", 20, 3, 0.0, 2.0),
    ):  # fmt: skip
        own = rng.normal(75, 8, (n, 1))
        found[name] = np.round(own + shift * np.arange(k) + rng.normal(0, noise, (n, k)) * np.linspace(1, 2, k), 3)
    # Shrout and Fleiss 1979, table 2: six targets, four judges.
    found["shrout_fleiss"] = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
    )
    return found


def long(table: np.ndarray) -> pd.DataFrame:
    n, k = table.shape
    rows = [(f"s{i}", f"c{j}", table[i, j]) for i in range(n) for j in range(k)]
    return pd.DataFrame(rows, columns=["subject", "contrast", "area"])


def of_table(table: np.ndarray) -> dict[str, Any]:
    frame = long(table)
    row = AnovaRM(frame, "area", "subject", within=["contrast"]).fit().anova_table.iloc[0]
    more = pingouin.rm_anova(
        data=frame, dv="area", within="contrast", subject="subject", correction=True, effsize="np2", detailed=True
    ).iloc[0]
    values = {
        "f": row["F Value"], "df": row["Num DF"], "df_error": row["Den DF"], "p": row["Pr > F"],
        "epsilon": more["eps"], "np2": more["np2"],
    }  # fmt: skip
    corrected = [name for name in more.index if "GG" in str(name).upper()]
    values["p_gg"] = more[corrected[0]] if corrected else None
    correlations = pingouin.intraclass_corr(data=frame, targets="subject", raters="contrast", ratings="area")
    kinds = correlations.set_index("Type")
    values["icc"] = {
        str(kind): {"value": kinds.loc[kind, "ICC"], "interval": list(kinds.loc[kind].filter(like="CI").iloc[0])}
        for kind in kinds.index
    }
    return values


def of_pair(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"tost": {}}
    for margin in MARGINS:
        p, (_, lower, df), (_, upper, _) = ttost_paired(b, a, -margin, margin)
        other = pingouin.tost(b, a, bound=margin, paired=True)
        found["tost"][str(margin)] = {
            "p": p, "p_lower": lower, "p_upper": upper, "df": df,
            "pingouin": float(other.filter(like="p").iloc[0, 0]),
        }  # fmt: skip
    found["d_av"] = pingouin.compute_effsize(b, a, paired=True, eftype="cohen")
    found["d_z"] = float(ttest_rel(b, a).statistic) / math.sqrt(len(a))
    # 1.96 is a rounded number: the exact one, so that all digits can be compared.
    axes = pingouin.plot_blandaltman(b, a, agreement=float(norm.ppf(0.975)), confidence=0.95)
    found["lines"] = sorted({round(float(line.get_ydata()[0]), 10) for line in axes.lines})
    found["spans"] = sorted([float(p.get_extents().ymin), float(p.get_extents().ymax)] for p in _patches(axes))
    mpl.pyplot.close("all")
    return found


def _patches(axes: Any) -> list[Any]:
    """The shaded bands in the coordinates of the data."""
    from matplotlib.transforms import IdentityTransform

    found = []
    for patch in axes.patches:
        patch.set_transform(IdentityTransform())
        found.append(patch.get_path().transformed(patch.get_patch_transform()))
    return found


def of_repeated(differences: np.ndarray) -> dict[str, Any]:
    """Variance components of differences, subjects by images, by ANOVA and (balanced, so equal) by REML."""
    frame = long(differences)
    table = anova_lm(ols("area ~ C(subject)", frame).fit())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = mixedlm("area ~ 1", frame, groups=frame["subject"]).fit(reml=True)
    return {
        "between_mean_square": table.loc["C(subject)", "mean_sq"],
        "within_mean_square": table.loc["Residual", "mean_sq"],
        "reml_between": float(fitted.cov_re.iloc[0, 0]),
        "reml_within": float(fitted.scale),
        "mean": float(fitted.fe_params.iloc[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fixture", type=Path, required=True)
    fixture = parser.parse_args().fixture
    pingouin.options["round"] = None
    pingouin.options["round.column.CI95"] = None
    pingouin.options["round.column.CI95%"] = None
    used = tables()
    rng = np.random.default_rng(9)
    p = np.round(rng.uniform(0, 0.08, 12), 6)
    repeated = np.round(rng.normal(0, 2, (10, 1)) + rng.normal(0.7, 1, (10, 4)), 3)
    content = {
        "command": "python tests/oracles/make_statistics.py --fixture tests/fixtures/oracle_statistics.json",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "tables": {name: table.tolist() for name, table in used.items()},
        "of_table": {name: of_table(table) for name, table in used.items()},
        "of_pair": {name: of_pair(table[:, 0], table[:, 1]) for name, table in used.items()},
        "p": p.tolist(),
        "corrected": {m: multipletests(p, method=m)[1].tolist() for m in ("holm", "bonferroni")},
        "repeated": repeated.tolist(),
        "of_repeated": of_repeated(repeated),
    }
    text = json.dumps(content, indent=1, default=lambda v: v.item() if hasattr(v, "item") else str(v))
    fixture.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
