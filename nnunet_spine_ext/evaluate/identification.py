"""Whether vertebrae carry the right number: identification rate and localisation distance of the VerSe challenge.

Sekuboyina et al. 2021, VerSe: A vertebrae labelling and segmentation benchmark. A reference vertebra is identified
when the centre of the predicted vertebra of the same label has it as its nearest reference centre, less than 20 mm
away. Centres are centres of mass of the instance masks, on both sides alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from nnunet_spine_ext.evaluate.panoptic import Group

IDENTIFIED_MM = 20.0
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Location:
    """Where the instance of the same number is: `distance` of the centres in mm (infinite: there is none)."""

    distance: float
    identified: bool


def locate(ref: Mapping[int, Point], pred: Mapping[int, Point]) -> dict[int, Location]:
    """Compare centres in mm by id; all ids are of one kind, and every reference id gets its location."""
    ids = sorted(ref)
    centres = np.asarray([ref[label] for label in ids], dtype=np.float64).reshape(-1, 3)
    found = {}
    for row, label in enumerate(ids):
        if label not in pred:
            found[label] = Location(math.inf, identified=False)
            continue
        distances = np.sqrt(((centres - np.asarray(pred[label])) ** 2).sum(axis=1))
        own = float(distances[row])
        found[label] = Location(own, identified=own < IDENTIFIED_MM and own <= distances.min())
    return found


def identified(location: Location) -> float:
    """Return 1 for an identified instance, else 0."""
    return float(location.identified)


def distance(location: Location) -> float:
    """Return the distance in mm to the centre of the predicted instance of the same number."""
    return location.distance


def id_rate(group: Group) -> float:
    """Return the share of the reference instances that are identified; not defined without any."""
    return fmean(group.locations[label].identified for label in group.refs)


def localisation_distance(group: Group) -> float:
    """Return the mean distance in mm of identified instances; infinite when none is.

    With `group.missing_distance` every instance that is not identified counts as that many mm.
    """
    places = [group.locations[label] for label in group.refs]
    values = [place.distance for place in places if place.identified]
    if group.missing_distance is not None:
        values += [group.missing_distance] * (len(places) - len(values))
    return fmean(values) if values else math.inf


def perfect_sequence(group: Group) -> float:
    """Return 1 when every reference instance is identified, else 0."""
    return float(all(group.locations[label].identified for label in group.refs))
