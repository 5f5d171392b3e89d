"""Where the images of a study come from: the steps that make them, and the conditions that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_spine_ext.study.conditions import SOURCE, Condition, conditions, targets
from nnunet_spine_ext.study.config import PhantomData, StudyConfig
from nnunet_spine_ext.study.index import INDEX
from nnunet_spine_ext.study.simulate import facts_of, group_folder, make_spines, parts
from nnunet_spine_ext.study.steps import Step

# Spines of one step: few enough that two processes end together, many enough that starting costs nothing.
_PART = 4
_SPINE_S = 4.0


@dataclass(frozen=True)
class Images:
    """The images to test on.

    Parameters
    ----------
    study: its folder. conditions: all of them, the source first. source: that of the models.
    test_steps: make them. test_folders: with their indices, relative to the study. subjects: how many.
    instances: whether vertebrae are known one by one.
    """

    study: Path
    conditions: tuple[Condition, ...]
    source: Condition
    test_steps: tuple[Step, ...]
    test_folders: tuple[str, ...]
    subjects: int
    instances: bool = True


def images_of(config: StudyConfig, study: Path) -> Images:
    """Return the images of a study.

    Raises
    ------
    UsageError, NoInputError: given data that cannot be studied.
    """
    if config.phantoms is None:
        from nnunet_spine_ext.study.given import given_images

        return given_images(config, study)
    chosen = tuple(conditions(config))
    data = config.phantoms
    most = config.components.test or data.test
    steps, folders = spine_steps(study, "test", data, most, chosen)
    whole = [condition for condition in chosen if condition.factor == "scanner"]
    more, places = spine_steps(study, "test", data, data.test - most, whole, most)
    steps, folders = [*steps, *more], [*folders, *places]
    return Images(study, chosen, SOURCE, tuple(steps), tuple(folders), config.phantoms.test)


def spine_steps(
    study: Path, group: str, data: PhantomData, count: int, chosen: Sequence[Condition], first: int = 0
) -> tuple[list[Step], list[str]]:
    """Return the steps that make `count` spines of a group from number `first` on, and their folders."""
    steps, folders = [], []
    for start, stop in parts(count, _PART):
        low, high = first + start, first + stop
        folder = group_folder(study, group, low).relative_to(study).as_posix()
        arguments = {
            "study": str(study), "group": group, "data": data, "first": low, "last": high, "conditions": list(chosen),
        }  # fmt: skip
        facts = {"data": facts_of(data), "range": [low, high], "conditions": [asdict(c) for c in chosen]}
        weight = _SPINE_S * (high - low) * (1 + len(chosen))
        name = f"make {group} spines {low + 1} to {high}"
        steps.append(Step(name, make_spines, arguments, facts, (), weight, (f"{folder}/{INDEX}",), optional=False))
        folders.append(folder)
    return steps, folders


def target_named(config: StudyConfig, name: str) -> Condition:
    """Return the condition of a target scanner, which need not be among those that are tested on."""
    for condition in targets(config):
        if name in (condition.scanner, condition.text):
            return condition
    return Condition(name, text=name)
