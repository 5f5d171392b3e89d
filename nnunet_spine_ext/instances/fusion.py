"""From the answers about many cutouts to one set of vertebrae.

Every vertebra is seen by several cutouts: as the one in the centre, as the one above, as the one below. The answers are
candidates. A candidate is worth what others agree with it (Dice). The set of candidates that do not overlap and are
worth most together is found by dynamic programming over their order along the spine: a candidate that swallowed two
vertebrae competes with the two. Then each answer is used for one vertebra at most, and each voxel goes to the vertebra
with most votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array

# One more vote, for nobody: two of three outweigh one of one.
_DOUBT = 1.0


@dataclass(frozen=True)
class FusionSettings:
    """How answers become vertebrae; shares are of voxels.

    Parameters
    ----------
    agree: Dice from which on an answer says something about a vertebra; SPINEPS takes 0.3.
    free_weight: how much the assignment without a network counts beside one cutout when vertebrae are chosen, and
        `free_vote` when voxels are.
    price: what a vertebra must be worth to exist.
    overlap: two vertebrae cannot share more than this of the smaller one.
    torn: trust in an answer whose arch is on another vertebra's body.
    crowding: how much of the worth of a vertebra is lost for what it shares with its neighbour.
    swallow: an answer that covers this share of two vertebrae has put them together and is not used.
    """

    agree: float = 0.5
    free_weight: float = 1.0
    free_vote: float = 0.9
    price: float = 0.3
    overlap: float = 0.5
    swallow: float = 0.6
    torn: float = 0.1
    crowding: float = 2.0

    def __post_init__(self) -> None:
        limits = {
            "agree": (0.0, 1.0),
            "free_weight": (0.0, 1e6),
            "free_vote": (0.0, 1e6),
            "price": (0.0, 1e6),
            "overlap": (0.0, 1.0),
            "swallow": (0.0, 1.0),
            "torn": (0.0, 1.0),
            "crowding": (0.0, 1e6),
        }
        check_ranges(self, limits, where="instances.network.fusion")


@dataclass(frozen=True)
class Voter:
    """One cutout's answer, or the assignment without a network, at the voxels of vertebrae (the sites).

    Parameters
    ----------
    low: number of the first site it speaks about.
    labels: uint8 or int16 label per site from there on, 0 for no answer.
    count: labels are 1..count.
    network: whether it is a cutout's answer.
    probabilities: (count + 1, sites) of the labels, for soft votes.
    """

    low: int
    labels: Array
    count: int
    network: bool = True
    probabilities: Array | None = None

    @property
    def high(self) -> int:
        """Number after the last site it speaks about."""
        return self.low + len(self.labels)


@dataclass(frozen=True)
class Candidates:
    """All parts that any voter named.

    Parameters
    ----------
    voter, label: (n,) number of the voter and label there.
    size: (n,) sites; `shared` (n, n) sites of every two.
    whole: (n,) 0..1, how far the arch of a part is on its own body rather than on another part's.
    """

    voter: Array
    label: Array
    size: Array
    shared: Array
    whole: Array

    def __len__(self) -> int:
        return len(self.size)

    @property
    def dice(self) -> Array:
        """Agreement (n, n) of every two."""
        return 2.0 * self.shared / np.maximum(self.size[:, None] + self.size[None, :], 1)


@dataclass(frozen=True)
class Vertebra:
    """A chosen vertebra: the candidate that stands for it, the answers used for it and their agreement with it."""

    candidate: int
    members: tuple[int, ...]
    weights: tuple[float, ...]


def find_candidates(voters: Sequence[Voter], min_sites: int, pedicles: tuple[Array, Array]) -> Candidates:
    """Return the parts of at least `min_sites`, how much they share, and whether they are whole.

    Parameters
    ----------
    pedicles: numbers of sites of arches and of the bodies' sites beside them.
    """
    counts = [np.bincount(v.labels, minlength=v.count + 1) for v in voters]
    index = [np.full(v.count + 1, -1) for v in voters]
    voter: list[int] = []
    label: list[int] = []
    size: list[int] = []
    for number, count in enumerate(counts):
        for name in np.flatnonzero(count[1:] >= max(1, min_sites)) + 1:
            index[number][name] = len(size)
            voter.append(number)
            label.append(int(name))
            size.append(int(count[name]))
    shared = np.zeros((len(size), len(size)))
    for a, first in enumerate(voters):
        for b in range(a + 1, len(voters)):
            second = voters[b]
            low, high = max(first.low, second.low), min(first.high, second.high)
            if low >= high:
                continue
            own = first.labels[low - first.low : high - first.low].astype(np.intp)
            other = second.labels[low - second.low : high - second.low]
            table = np.bincount(own * (second.count + 1) + other, minlength=(first.count + 1) * (second.count + 1))
            table = table.reshape(first.count + 1, second.count + 1)
            rows, columns = np.flatnonzero(index[a] >= 0), np.flatnonzero(index[b] >= 0)
            if len(rows) and len(columns):
                block = table[np.ix_(rows, columns)]
                shared[np.ix_(index[a][rows], index[b][columns])] = block
                shared[np.ix_(index[b][columns], index[a][rows])] = block.T
    sizes = np.array(size, dtype=np.float64)
    shared[np.arange(len(size)), np.arange(len(size))] = sizes
    names = np.array(label, dtype=np.intp)
    whole = np.ones(len(names))
    for number, own in enumerate(index):
        here = np.flatnonzero(own >= 0)
        whole[own[here]] = _whole(voters[number], *pedicles)[here]
    return Candidates(np.array(voter, dtype=np.intp), names, sizes, shared, whole)


def _whole(voter: Voter, arch: Array, body: Array) -> Array:
    """Share (count + 1,) of the contacts between arch and body within a label, of those that the label has at all."""
    inside = (np.minimum(arch, body) >= voter.low) & (np.maximum(arch, body) < voter.high)
    first, second = voter.labels[arch[inside] - voter.low], voter.labels[body[inside] - voter.low]
    same = np.bincount(first[first == second], minlength=voter.count + 1)
    split = (first != second) & (first > 0) & (second > 0)
    apart = np.bincount(first[split], minlength=voter.count + 1) + np.bincount(second[split], minlength=voter.count + 1)
    return np.where(same + apart > 0, same / np.maximum(same + apart, 1), 1.0)


def choose(candidates: Candidates, voters: Sequence[Voter], place: Array, settings: FusionSettings) -> list[int]:
    """Return the candidates that are vertebrae, from head to tail.

    Parameters
    ----------
    place: (n,) position of each candidate along the spine, growing towards the tail.
    """
    if len(candidates) == 0:
        return []
    support = _support(candidates, voters, settings)
    order = np.lexsort((np.arange(len(place)), place))
    support = support[np.ix_(order, order)]
    share = candidates.shared / np.maximum(np.minimum(candidates.size[:, None], candidates.size[None, :]), 1)
    share = share[np.ix_(order, order)]
    worth = support.sum(axis=0)
    # An answer counts for one of two vertebrae only, and what both cover is left to one of them.
    twice = np.stack([np.minimum(support, support[:, k : k + 1]).sum(axis=0) for k in range(len(worth))])
    cost = twice + settings.crowding * share * np.minimum(worth[:, None], worth[None, :])
    chosen = _best_chain(worth - settings.price, cost, share > settings.overlap)
    return [int(order[k]) for k in chosen]


def gather(
    candidates: Candidates, voters: Sequence[Voter], chosen: Sequence[int], settings: FusionSettings
) -> tuple[list[Vertebra], list[int]]:
    """Give every answer to the vertebra that it agrees with best.

    Returns
    -------
    (vertebrae, answers of cutouts that were used for none). No vertebra gets two answers of one cutout.
    """
    dice = candidates.dice[:, list(chosen)] if chosen else np.zeros((len(candidates), 0))
    sizes = candidates.size[list(chosen)] if chosen else np.zeros(0)
    covered = candidates.shared[:, list(chosen)] / np.maximum(sizes, 1) if chosen else dice
    members: list[list[int]] = [[] for _ in chosen]
    taken: set[tuple[int, int]] = set()
    order = sorted(range(len(candidates)), key=lambda k: (-float(dice[k].max(initial=0.0)), k))
    unused = []
    for k in order:
        home = int(dice[k].argmax()) if len(chosen) else -1
        swallowed = int((covered[k] >= settings.swallow).sum()) > 1
        key = (home, int(candidates.voter[k]))
        if home < 0 or dice[k, home] < settings.agree or swallowed or key in taken:
            if voters[candidates.voter[k]].network:
                unused.append(k)
            continue
        taken.add(key)
        members[home].append(k)
    trust = settings.torn + (1.0 - settings.torn) * candidates.whole
    result = []
    for number, found in enumerate(members):
        found = sorted(found)
        weights = tuple(float(dice[k, number] * trust[k]) for k in found)
        result.append(Vertebra(int(chosen[number]), tuple(found), weights))
    return result, sorted(unused)


def vote(
    candidates: Candidates,
    voters: Sequence[Voter],
    vertebrae: Sequence[Vertebra],
    sites: int,
    settings: FusionSettings,
    *,
    network_only: bool = False,
) -> Array:
    """Return the vertebra (from 1) with most votes for every site, 0 where nobody voted (int16).

    The votes of an answer count as much as it agrees with the vertebra; with probabilities each site has its own. The
    share of the votes decides, but a share of many weighs more than one of few. Equal ones go to the vertebra nearer to
    the head.
    """
    best = np.zeros(sites, dtype=np.float32)
    winner = np.zeros(sites, dtype=np.int16)
    for number, vertebra in enumerate(vertebrae, start=1):
        used = [
            (voters[candidates.voter[k]], int(candidates.label[k]), weight)
            for k, weight in zip(vertebra.members, vertebra.weights, strict=True)
            if voters[candidates.voter[k]].network or not network_only
        ]
        if not used:
            continue
        low, high = min(v.low for v, _, _ in used), max(v.high for v, _, _ in used)
        votes = np.zeros(high - low, dtype=np.float32)
        total = 0.0
        for voter, label, weight in used:
            strength = weight if voter.network else settings.free_vote
            total += strength
            window = votes[voter.low - low : voter.high - low]
            if voter.probabilities is None:
                window += np.float32(strength) * (voter.labels == label)
            else:
                window += np.float32(strength) * voter.probabilities[label] * (voter.labels > 0)
        votes /= np.float32(total + _DOUBT)
        better = votes > best[low:high]
        best[low:high][better] = votes[better]
        winner[low:high][better] = number
    return winner


def _support(candidates: Candidates, voters: Sequence[Voter], settings: FusionSettings) -> Array:
    """How much each answer (row) says for each candidate (column)."""
    clear = np.clip((candidates.dice - settings.agree) / (1.0 - settings.agree), 0.0, 1.0)
    weight = np.array([1.0 if voters[k].network else settings.free_weight for k in candidates.voter])
    trust = settings.torn + (1.0 - settings.torn) * candidates.whole
    # A torn part may be the only one that there is of a vertebra, so it can be one, but it is worth less.
    return clear * (weight * trust)[:, None] * (0.5 + 0.5 * candidates.whole)[None, :]


def _best_chain(gain: Array, cost: Array, clash: Array) -> list[int]:
    """Return the positions (ascending) with the greatest sum of gains, less what each costs its neighbours.

    Exact for candidates that overlap with the one or two chosen before them; what overlaps farther away is left out
    afterwards (the lesser one).
    """
    count = len(gain)
    # State (a, b): the last two chosen, a before b; a = count stands for none.
    best = np.full((count + 1, count), -np.inf)
    before = np.full((count + 1, count), -1)
    for b in range(count):
        best[count, b] = gain[b]
        for a in range(b):
            if clash[a, b]:
                continue
            # The one before a must not clash with b either.
            options = best[:, a].copy()
            options[:count][clash[:, b]] = -np.inf
            options[:count] -= cost[:, b]
            k = int(np.argmax(options))
            if np.isfinite(options[k]):
                best[a, b] = options[k] + gain[b] - cost[a, b]
                before[a, b] = k
    a, b = divmod(int(np.argmax(best)), count)
    if best[a, b] <= 0:
        return [int(np.argmax(gain))] if gain.max(initial=-1.0) > 0 else []
    chain = [b]
    while a < count:
        chain.append(a)
        a, b = int(before[a, b]), a
    chain.reverse()
    return _without_clashes(chain, gain, clash)


def _without_clashes(chain: list[int], gain: Array, clash: Array) -> list[int]:
    kept: list[int] = []
    for k in sorted(chain, key=lambda k: (-float(gain[k]), k)):
        if not any(clash[k, other] for other in kept):
            kept.append(k)
    return sorted(kept)
