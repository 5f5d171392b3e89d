"""The answers that a classifier learns, and where there are none."""

from __future__ import annotations

from nnunet_spine_ext.numbering.levels import GROUPS, LEVELS, RELATIVE
from nnunet_spine_ext.numbering.targets import HEADS, UNKNOWN, targets_of

NORMAL = [name for name in LEVELS if name not in ("T13", "L6")]


def _relative(names: list[str], *, sacrum: bool) -> list[str]:
    values = targets_of(names, [True] * len(names), sacrum=sacrum)["relative"]
    return ["?" if k == UNKNOWN else RELATIVE[k] for k in values]


def test_a_whole_spine_has_all_answers() -> None:
    answers = targets_of(NORMAL, [True] * 24, sacrum=True)
    assert set(answers) == set(HEADS)
    assert [LEVELS[k] for k in answers["level"]] == NORMAL
    assert answers["region"].tolist() == [0] * 7 + [1] * 12 + [2] * 5
    assert all(name in GROUPS[k] for name, k in zip(NORMAL, answers["group"], strict=True))
    roles = dict(zip(NORMAL, _relative(NORMAL, sacrum=True), strict=True))
    special = {"C7": "last C", "T1": "first T", "T12": "last T", "L1": "first L", "L5": "last L"}
    assert roles == {name: special.get(name, "none") for name in NORMAL}
    assert answers["t13"].sum() == 0
    assert answers["visible"].all()


def test_anomalies_have_other_last_vertebrae() -> None:
    long = ["T11", "T12", "T13", "L1", "L2", "L3", "L4", "L5", "L6"]
    assert _relative(long, sacrum=True) == ["none", "none", "last T", "first L", *["none"] * 4, "last L"]
    assert targets_of(long, [True] * 9, sacrum=True)["t13"].tolist() == [0, 0, 1, *[0] * 6]
    assert _relative(["T11", "L1", "L2", "L3", "L4"], sacrum=True) == ["last T", "first L", "none", "none", "last L"]


def test_what_the_end_of_the_picture_hides_has_no_answer() -> None:
    assert _relative(["T10", "T11"], sacrum=False) == ["none", "?"]
    assert _relative(["L4", "L5"], sacrum=False) == ["none", "?"]
    assert _relative(["L2", "L3"], sacrum=False) == ["none", "none"]
    assert _relative(["T8", "T9"], sacrum=False) == ["none", "none"]
    # A vertebra is missing between the two.
    assert _relative(["T12", "L2"], sacrum=False) == ["?", "none"]
    assert targets_of(["L1", "L2"], [False, True], sacrum=False)["visible"].tolist() == [0, 1]
    assert all(len(answers) == 0 for answers in targets_of([], [], sacrum=False).values())
