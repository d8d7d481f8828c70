"""Verifies entries: hashes first, then some concepts, measured again beside what they say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Final, TypeVar

import numpy as np
from scipy import stats

from safezone.audit.entry import BoardEntry, Hashes, contradictions, training_names
from safezone.audit.evaluate import Found, Subject, Trial, code_of, evaluate, hashes_of
from safezone.audit.suites import ObjectSuite
from safezone.lab.lab import Note

EntryName = TypeVar("EntryName")

FALSE_ALARM: Final = 0.001
"""The probability that an honest entry is refused although all its noise was drawn anew."""
LARGEST_WITHIN: Final = 1
"""By how many levels of 255 the largest change may differ."""
PSNR_WITHIN: Final = 0.5
"""By how much the PSNR may differ, which is a mean over all values of all images."""


def drawn_concepts(suite: ObjectSuite, count: int, seed: int) -> tuple[str, ...]:
    """So many concepts of the suite, or all, without repeats, in the suite's order."""
    chosen = np.random.default_rng(seed).permutation(len(suite.concepts))[:count]
    return tuple(suite.concepts[place] for place in sorted(chosen))


def differing(trial: Trial, ours: Hashes, subject: Subject, entry: BoardEntry) -> list[str]:
    """Which hashes of the entry are not ours, a sentence each."""
    theirs = entry.hashes
    poison, attack = code_of(trial, subject)
    pairs: dict[str, tuple[str | None, str | None]] = {
        "other weights of the model": (ours.model, theirs.model),
        "another encoder of similarities": (ours.encoder, theirs.encoder),
        "another network of a purifier": (ours.networks, theirs.networks),
        f"other settings of {entry.suite}": (ours.settings, theirs.settings),
        "another file of the poison": (poison.file, entry.poison.file),
        "other code or settings of the poison": (poison.key, entry.poison.key),
    }
    for name, key in ours.images.items():
        pairs[f"other images of {name}"] = (key, theirs.images.get(name))
    if attack is not None and entry.attack is not None:
        pairs["another file of the attack"] = (attack.file, entry.attack.file)
        pairs["other code or settings of the attack"] = (attack.key, entry.attack.key)
    return [
        f"{what}: {(there or 'none')[:12]} in the entry, {(here or 'none')[:12]} here"
        for what, (here, there) in pairs.items()
        if here != there
    ]


@dataclass(frozen=True)
class Deviation:
    """One number of the entry beside the one that was measured now.

    ``concept``: "mean" for the mean over the drawn ones. ``tolerance``: of the absolute difference.
    """

    concept: str
    what: str
    claimed: float
    measured: float
    tolerance: float

    @property
    def difference(self) -> float:
        return self.measured - self.claimed

    @property
    def within(self) -> bool:
        return abs(self.difference) <= self.tolerance

    def __str__(self) -> str:
        off = "within" if self.within else f"off by {abs(self.difference) - self.tolerance:.2f}"
        return (
            f"{self.concept}, {self.what}: {self.claimed:.2f} in the entry, {self.measured:.2f} "
            f"now ({self.difference:+.2f}, tolerance {self.tolerance:.2f}: {off})"
        )


@dataclass(frozen=True)
class Verdict:
    """``problems``: what is wrong without measuring; ``deviations``: every number compared."""

    problems: Sequence[str]
    deviations: Sequence[Deviation] = ()

    @property
    def within(self) -> bool:
        return not self.problems and all(each.within for each in self.deviations)

    def sentences(self) -> list[str]:
        """What to tell: problems, else what is off, else how near the limit the worst number is."""
        numbers = self.deviations
        wrong = [*self.problems, *(str(each) for each in numbers if not each.within)]
        if wrong or not numbers:
            return [f"not within: {each}" for each in wrong]
        worst = max(numbers, key=lambda each: abs(each.difference) / each.tolerance)
        return [f"within; of {len(numbers)} numbers the furthest off is {worst}"]

    def as_json(self) -> dict[str, Any]:
        numbers = [{**asdict(each), "within": each.within} for each in self.deviations]
        return {"within": self.within, "problems": [*self.problems], "numbers": numbers}


def tolerances(suite: ObjectSuite, trainings: int, concepts: int) -> tuple[float, float]:
    """Of one concept's similarity, and of the mean over the concepts.

    Two honest measurements of one concept differ by a normal number of variance 2 spread^2 / seeds
    if nothing of their noise is shared: gradients of signs are chaotic, so another processor is no
    better than another seed. The quantile is Bonferroni's for all numbers that are compared.
    """
    compared = trainings * (concepts + (concepts > 1))
    quantile = float(stats.norm.isf(FALSE_ALARM / (2 * compared)))
    one = quantile * suite.spread * math.sqrt(2 / suite.seeds)
    return one, one / math.sqrt(concepts)


def compared(entry: BoardEntry, found: Found) -> list[Deviation]:
    """Every number of the entry on the concepts that were measured, beside what was measured."""
    names, concepts = training_names(entry.of, entry.form), list(found.measured)
    one, mean = tolerances(entry.of, len(names), len(concepts))

    def pair(concept: str, name: str) -> tuple[float, float]:
        return fmean(entry.measured[concept][name]), fmean(found.measured[concept][name])

    result = [Deviation(c, name, *pair(c, name), one) for c in concepts for name in names]
    for name in names if len(concepts) > 1 else ():
        claims, finds = zip(*(pair(concept, name) for concept in concepts), strict=True)
        result.append(Deviation("mean", name, fmean(claims), fmean(finds), mean))
    for concept in concepts:
        old, now = entry.changes[concept], found.changes[concept]
        largest = (old.largest, now.largest, LARGEST_WITHIN)
        result.append(Deviation(concept, "largest change, of 255", *largest))
        result.append(Deviation(concept, "PSNR, dB", old.psnr, now.psnr, PSNR_WITHIN))
    return result


def verify(
    trial: Trial,
    entries: Mapping[EntryName, tuple[Subject, BoardEntry]],
    concepts: Sequence[str],
    *,
    progress: bool = False,
    note: Note = lambda text: None,
) -> dict[EntryName, Verdict]:
    """The verdict on each entry; only those whose hashes agree are measured, in shared passes.

    ``trial``: of the entries' suite and model; its seed is that of the noise. ``concepts``: which
    are measured again.
    """
    hashes = hashes_of(trial)
    problems = {
        key: [*contradictions(entry), *differing(trial, hashes, subject, entry)]
        for key, (subject, entry) in entries.items()
    }
    honest = {key: pair for key, pair in entries.items() if not problems[key]}
    wanted = {subject: concepts for subject, _ in honest.values()}
    measured = evaluate(replace(trial, wanted=wanted), progress=progress, note=note)
    verdicts = {key: Verdict(problems[key]) for key in entries}
    return verdicts | {key: Verdict((), compared(e, measured[s])) for key, (s, e) in honest.items()}
