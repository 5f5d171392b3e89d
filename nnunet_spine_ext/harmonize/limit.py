"""How far a new scan of the training scanner may be from the reference: a prediction limit from the training scans."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnunet_spine_ext.core.volume import Array

RISK = 0.01
"""How likely a new scan of the training scanner is to lie beyond the limit, and so to be matched without need."""
# Distances are positive and skewed, their logarithms are not: of 36 phantoms of one scanner these have a standard
# deviation of 0.55 (Shapiro p 0.9). Few training scans cannot tell their own, so this one counts as much as that of
# eight more. In random parts of those phantoms new scans then exceed the limit in 0.8, 0.7, 1.4 and 2.0 % of cases
# after 2, 5, 10 and 20 training scans; the 95th percentile is exceeded in 41, 19, 11 and 9 %.
_SPREAD, _WORTH = 0.5, 8
# Scans that are nearer to the reference than this cannot be told from it, however alike the training scans were.
LEAST = 0.01
_TINY = 1e-3


def prediction_limit(distances: Sequence[float] | Array, risk: float = RISK) -> float:
    """Return the limit that the distance of one more scan of the same kind exceeds with probability `risk`.

    The 95th percentile of the training scans' own distances is no such limit: of few scans it is too low. This is the
    upper prediction limit of a normal distribution of the logarithms, by Student's t.

    Parameters
    ----------
    distances: of each of two or more training scans from the mean of the others, 0 or more; or anything else that is
        positive and skewed alike, as the noise of each.
    risk: above 0 and below a half.
    """
    from scipy.special import stdtrit

    logs = np.log(np.maximum(np.asarray(distances, dtype=np.float64), _TINY))
    own = logs.size - 1
    freedom = own + _WORTH
    variance = (own * float(logs.var(ddof=1)) + _WORTH * _SPREAD**2) / freedom
    reach = float(stdtrit(freedom, 1 - risk)) * math.sqrt(variance * (1 + 1 / logs.size))
    return max(LEAST, float(np.exp(logs.mean() + reach)))
