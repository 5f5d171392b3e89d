"""The scans of an evaluation: the steps that make phantoms, and where everything lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.errors import NoInputError
from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.harmonize.slices import Part, other_vendors, vendor_counts
from nnunet_spine_ext.phantom.vendor_cohort import vendor_phantoms
from nnunet_spine_ext.study.config import digest
from nnunet_spine_ext.study.faults import wrong
from nnunet_spine_ext.study.harmonization.arms import NONE
from nnunet_spine_ext.study.harmonization.config import (
    WHOLE,
    GivenVendors,
    HarmonizationConfig,
    PhantomVendors,
    folded,
)
from nnunet_spine_ext.study.steps import Step

RAW = "scans"
# Facts of cases.json that tell phantoms of different vendors apart.
PHANTOM_KEY = "vendor"
_FIRST_DATASET = 910
_SPINE_S = 6.0
# People who are tested on and do not travel are told from those who are trained on by their numbers.
_TESTED_FROM = 500


@dataclass(frozen=True)
class Scans:
    """Where scans are, relative to the study or absolute.

    `training`: datasets of the target and of sources, `test`: those to test on, `steps`: make them. `training_content`,
    `test_content`: what stands for the files of given datasets, in the same order. `absent`: vendors without a scan to
    test on.
    """

    training: tuple[str, ...]
    test: tuple[str, ...]
    part: Part
    key: str
    target: tuple[str, ...]
    sources: tuple[str, ...]
    unseen: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    training_content: tuple[str, ...] = ()
    test_content: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def tested(self) -> tuple[str, ...]:
        """Vendors that are tested on."""
        return tuple(name for name in (*self.target, *self.sources, *self.unseen) if name not in self.absent)

    @property
    def training_steps(self) -> tuple[Step, ...]:
        """Those of the steps that make what is trained on."""
        return tuple(step for step in self.steps if step.outputs[0].rpartition("/")[0] in self.training)

    @property
    def test_steps(self) -> tuple[Step, ...]:
        """Those of the steps that make what is tested on."""
        return tuple(step for step in self.steps if step.outputs[0].rpartition("/")[0] in self.test)


def scans_of(config: HarmonizationConfig, study: Path) -> Scans:
    """Return the scans of an evaluation.

    Raises
    ------
    UsageError, NoInputError: given data that cannot be evaluated.
    """
    if config.phantoms is not None:
        return _phantoms(config.phantoms, study)
    given = config.given
    if given is None:
        msg = "an evaluation has phantoms or given scans"
        raise RuntimeError(msg)
    training = tuple(str(Path(name).resolve()) for name in given.datasets)
    others = other_vendors(training, given.target, key=given.key)
    hidden = {folded(name) for name in given.unseen}
    sources = given.sources or tuple(name for name in others if folded(name) not in hidden)
    test = tuple(str(Path(name).resolve()) for name in given.test) or training
    return Scans(
        training, test, given.test_part, given.key, given.target, sources, given.unseen,
        training_content=tuple(content_of(Path(folder), "Tr") for folder in training),
        test_content=tuple(content_of(Path(folder), given.test_part) for folder in test),
        absent=_absent(config, given, training, test, sources),
    )  # fmt: skip


def _absent(
    config: HarmonizationConfig, given: GivenVendors, training: Sequence[str], test: Sequence[str],
    sources: Sequence[str],
) -> tuple[str, ...]:  # fmt: skip
    """Return the vendors without a scan to test on; refuse names that nobody has, and data that say nothing."""
    taught = vendor_counts(training, key=given.key)
    scanned = vendor_counts(test, key=given.key, part=given.test_part)
    trained_with, tested = ({folded(name) for name in counts} for counts in (taught, scanned))
    everyone = sorted({*taught, *scanned})
    for where, names in (("given.sources", sources), ("given.unseen", given.unseen)):
        for name in names:
            if folded(name) not in trained_with | tested:
                raise wrong(where, f"{given.key} {name!r}, which no scan has", f"one of {', '.join(everyone)}",
                            nearest(name, everyone))  # fmt: skip
    strange = [name for name in sources if folded(name) not in trained_with]
    if strange and any(arm != NONE and not (arm == WHOLE and config.harmonizer.folder) for arm in config.arms):
        raise wrong("given.sources", f"no scan of {', '.join(strange)} to train with", "scans in imagesTr of datasets",
                    "name vendors that are tested only in given.unseen")  # fmt: skip
    others = (*sources, *given.unseen)
    for names in (given.target, others):
        if not any(folded(name) in tested for name in names):
            raise NoInputError(
                "E-STUDY-DATA",
                file=", ".join(test),
                found=f"scans of {', '.join(scanned) or 'nobody'} to test on",
                expected=f"some of {', '.join(names)}",
                fix="add test scans with masks of discs, or correct given.test and given.test_part",
            )
    return tuple(name for name in (*given.target, *others) if folded(name) not in tested)


def content_of(dataset: Path, part: Part) -> str:
    """Return a digest of one part of a raw dataset: its tables, and names, sizes and times of its scans and masks.

    Scans are not read, which would take minutes: one that is touched counts as another.
    """
    tables = [sha256(path) if (path := dataset / name).is_file() else "" for name in (CASES_FILE, "dataset.json")]
    files = []
    for kind in ("images", "labels"):
        folder = dataset / f"{kind}{part}"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            facts = path.stat() if path.exists() else None
            files.append([f"{kind}/{path.name}", *([facts.st_size, facts.st_mtime_ns] if facts else [])])
    return digest(tables, files)


def _phantoms(data: PhantomVendors, study: Path) -> Scans:
    steps: list[Step] = []
    training: list[str] = []
    test: list[str] = []
    for place, name in enumerate((data.target, *data.sources, *data.unseen)):
        count = 0 if name in data.unseen else data.target_training if name == data.target else data.training
        # Spines to test on are of another seed: however many there are to train on, they stay the same.
        for number, (spines, seed, kind) in enumerate(
            ((count, 2 * data.seed, "Training"), (data.test, 2 * data.seed + 1, "Test"))
        ):
            if not spines:
                continue
            title = f"{''.join(part.capitalize() for part in name.split('-'))}{kind}"
            dataset = _FIRST_DATASET + 2 * place + number
            folder = f"{RAW}/Dataset{dataset:03d}_{title}"
            (test if kind == "Test" else training).append(folder)
            own = kind == "Test" and not data.travelling
            facts = {"dataset": dataset, "title": title, "vendor": name, "spines": spines, "seed": seed,
                     "width": data.width, "finest": data.finest,
                     "severity": data.severity, "travelling": data.travelling and kind == "Test",
                     **({"skip": _TESTED_FROM} if own else {})}  # fmt: skip
            steps.append(
                Step(f"scan {spines} spines of {title}", make_vendor, {"study": str(study), **facts}, facts, (),
                     _SPINE_S * spines, (f"{folder}/cases.json",), optional=False)
            )  # fmt: skip
    return Scans(
        tuple(training), tuple(test), "Tr", PHANTOM_KEY, (data.target,), data.sources, data.unseen, tuple(steps)
    )


def make_vendor(
    study: str | Path,
    *,
    dataset: int,
    title: str,
    vendor: str,
    spines: int,
    seed: int,
    width: float,
    finest: float | None,
    severity: float,
    travelling: bool,
    skip: int = 0,
) -> dict[str, Any]:
    """Make a raw dataset of the scans of one vendor; people who travel are the same at every one.

    `skip`: so many of the vendor's own people are left out.
    """
    own, shared = (0, spines) if travelling else (spines, 0)
    made = vendor_phantoms(
        Path(study) / RAW, vendors=[vendor], subjects_per_vendor=own, travelling=shared, skip=skip, seed=seed,
        width=width, finest=finest, severity=severity, dataset_id=dataset, name=title, folds=2, overwrite=True,
    )  # fmt: skip
    return {"cases": made.cases}
