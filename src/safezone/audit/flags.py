"""When nothing, or less, follows from an audit: each flag is a row with its condition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from safezone.audit.cases import Plan
from safezone.audit.outcome import NOTHING_LEARNED, Outcome
from safezone.lab.settings import fraction

FEW_CONCEPTS: Final = 5


@dataclass(frozen=True, eq=False)
class Facts:
    """What the flags look at. ``floor``: the similarity of what the class word alone draws.

    ``largest``: the largest change of any value of a pixel, in [0, 1]; None without originals.
    ``own_training``: whether the trainings were told other settings than the model's preset.
    """

    plan: Plan
    outcomes: Sequence[Outcome]
    model: str
    floor: float | None
    largest: float | None
    own_training: bool = False

    @property
    def made(self) -> list[Mapping[str, Any]]:
        """The manifests of the protected folders that our own poisons wrote."""
        return [case.made for case in self.plan.cases if case.made]

    @property
    def budget(self) -> float | None:
        """The largest change that the protection claims, in [0, 1]."""
        told = [fraction(made["kappa"]) for made in self.made if "kappa" in made]
        return max(told, default=None)


@dataclass(frozen=True)
class Flag:
    """``raised``: whether it holds; ``text``: what it means, one sentence."""

    name: str
    raised: Callable[[Facts], bool]
    text: str


def _not_learned(facts: Facts) -> bool:
    clean = [each.clean.mean for each in facts.outcomes if each.clean is not None]
    return any(mean - (facts.floor or 0.0) < NOTHING_LEARNED for mean in clean)


def _over_budget(facts: Facts) -> bool:
    if facts.largest is None or facts.budget is None:
        return False
    return facts.largest > facts.budget + 0.5 / 255 + 1e-6


def _costs(facts: Facts) -> bool:
    """The worst case's training takes from clean images at least as much as it gives back."""
    for each in facts.outcomes:
        if each.clean is None or each.worst.clean is None or each.worst is each.plain:
            continue
        if each.clean.mean - each.worst.clean.mean >= max(
            0.02, each.worst.similarity.mean - each.plain.similarity.mean
        ):
            return True
    return False


def _white_box(facts: Facts) -> bool:
    return any(made.get("model") == facts.model for made in facts.made)


def _carried_over(facts: Facts) -> bool:
    return any(made.get("model") not in (None, facts.model) for made in facts.made)


FLAGS: Final[tuple[Flag, ...]] = (
    Flag(
        "no-originals",
        lambda facts: any(case.clean is None for case in facts.plan.cases),
        "There are no clean originals, so similarities are to the protected images and what the "
        "protection took cannot be told; give --clean.",
    ),
    Flag(
        "clean-not-learned",
        _not_learned,
        "The clean images were hardly learned better than the class word alone draws them, so "
        "nothing follows for the protected ones.",
    ),
    Flag(
        "budget-exceeded",
        _over_budget,
        "The protected images differ from the originals by more than the protection's budget: they "
        "were changed afterwards, or these are other originals.",
    ),
    Flag(
        "lossy-file",
        lambda facts: any(case.lossy for case in facts.plan.cases),
        "Protected images are in a lossy form (JPEG, WebP), which has changed the protection "
        "already; audit the files as the protection wrote them too.",
    ),
    Flag(
        "care-costs-clean",
        _costs,
        "The training that learned most loses at least as much on clean images as it gains here, "
        "so its gain is not recovery alone.",
    ),
    Flag(
        "purifier-of-this-world",
        lambda facts: (
            facts.plan.builtin and any(each.name == "purifier" for each in facts.plan.attackers)
        ),
        "The built-in purifier was trained on the very world of the built-in model; purifiers of "
        "photographs know less of what they clean.",
    ),
    Flag(
        "white-box",
        _white_box,
        "The protection was made on the model that is trained here, its best case; on another "
        "model it may do less.",
    ),
    Flag(
        "carried-over",
        _carried_over,
        "The protection was made on another model than the one that is trained here.",
    ),
    Flag(
        "unknown-maker",
        lambda facts: len(facts.made) < len(facts.plan.cases),
        "It is not known on which model the protection was made, so white box and carried over "
        "cannot be told apart.",
    ),
    Flag(
        "other-training",
        lambda facts: facts.own_training,
        "The trainings had other settings than this model's preset (--config), so these numbers "
        "are not the suite's.",
    ),
    Flag(
        "few-concepts",
        lambda facts: len(facts.plan.cases) < FEW_CONCEPTS,
        f"Fewer than {FEW_CONCEPTS} concepts: this is a look at these images, not a measurement of "
        "the protection.",
    ),
    Flag(
        "generated-masks",
        lambda facts: any(case.generated_masks for case in facts.plan.cases),
        "The masks were drawn by GrabCut and not looked at; a wrong mask makes Safe-Zone Training "
        "look worse than it is.",
    ),
    Flag(
        "stronger-attack-missing",
        lambda facts: bool(facts.plan.left_out) or any(each.failed for each in facts.outcomes),
        "Known attackers of the suite did not run here, so the worst case may be worse.",
    ),
)
"""Every flag; the tests raise each of them and leave each of them down."""


def raised(facts: Facts) -> list[Flag]:
    """The flags that hold, in the table's order."""
    return [flag for flag in FLAGS if flag.raised(facts)]
