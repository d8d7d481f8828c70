"""Flags: when nothing, or less, follows from an audit; and the verdict on each of its methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from safezone.audit.cases import Plan
from safezone.audit.outcome import NOTHING_LEARNED, Outcome, verdict
from safezone.audit.protection import Alteration, made_on, model_names
from safezone.results.tables import method_label

FEW_CONCEPTS: Final = 5
"""Below this an audit is a look at images, not a measurement."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What the flags look at. ``floor``: the similarity of what the class word alone draws.

    ``changes``: of each concept's images. ``own_training``: whether the trainings were told other
    settings than the model's preset, and ``own_sampling`` the same of images that are drawn.
    ``photographs``: whether the built-in model learned from such.
    ``failed``: methods without an outcome, and why.
    """

    plan: Plan
    outcomes: Sequence[Outcome]
    model: str
    floor: float
    changes: Sequence[Alteration]
    own_training: bool = False
    own_sampling: bool = False
    photographs: bool = False
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def makers(self) -> list[frozenset[str]]:
        """The models that each concept's protection was made on; empty where nobody says so."""
        return [made_on(case) for case in self.plan.cases]

    @property
    def trained(self) -> frozenset[str]:
        """The name of the model that is trained here, as ``makers`` has it."""
        return model_names(self.model)


def verdicts(facts: Facts) -> list[str]:
    """One sentence for each method of the plan, also where plain training failed."""
    told = {each.method: verdict(each, facts.floor) for each in facts.outcomes}
    for method, reason in facts.failed.items():
        told[method] = (
            f"With {method_label(method)}, plain training failed ({reason.rstrip('.')}), so there "
            "is nothing to compare with and no verdict on the protection."
        )
    return [told[method] for method in facts.plan.methods]


@dataclass(frozen=True)
class Flag:
    """``raised``: whether it holds; ``text``: what it means, one sentence."""

    name: str
    raised: Callable[[Facts], bool]
    text: str


FLAGS: Final[tuple[Flag, ...]] = (
    Flag(
        "no-originals",
        lambda facts: any(case.clean is None for case in facts.plan.cases),
        "There are no clean originals, so similarities are to the protected images and what the "
        "protection took cannot be told; give --clean.",
    ),
    Flag(
        "clean-not-learned",
        lambda facts: any(
            each.clean is not None and each.clean.mean - facts.floor < NOTHING_LEARNED
            for each in facts.outcomes
        ),
        "The clean images were hardly learned better than the class word alone draws them, so "
        "nothing follows for the protected ones.",
    ),
    Flag(
        "budget-exceeded",
        lambda facts: any(each.over_budget for each in facts.changes),
        "The protected images differ from the originals by more than the protection's budget: they "
        "were changed afterwards, or these are other originals.",
    ),
    Flag(
        "other-size",
        lambda facts: any(each.other_size for each in facts.changes),
        "The protected images and the originals differ in size, so PSNR and the largest change "
        "hold the loss of resolution too, not the protection alone.",
    ),
    Flag(
        "lossy-file",
        lambda facts: any(case.lossy for case in facts.plan.cases),
        "Protected images are in a lossy form (JPEG, WebP), which has changed the protection "
        "already; audit the files as the protection wrote them too.",
    ),
    Flag(
        "care-costs-clean",
        lambda facts: any(each.costs for each in facts.outcomes),
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
        lambda facts: any(each & facts.trained for each in facts.makers),
        "The protection was made on the model that is trained here, its best case; on another "
        "model it may do less.",
    ),
    Flag(
        "carried-over",
        lambda facts: any(each and not each & facts.trained for each in facts.makers),
        "The protection was made on another model than the one that is trained here.",
    ),
    Flag(
        "unknown-maker",
        lambda facts: not all(facts.makers),
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
        "other-sampling",
        lambda facts: facts.own_sampling,
        "Images were drawn with other prompts or settings than the suite's (--sampling, --config), "
        "so these numbers are not the suite's.",
    ),
    Flag(
        "few-concepts",
        lambda facts: len(facts.plan.cases) < FEW_CONCEPTS,
        f"Fewer than {FEW_CONCEPTS} concepts: this is a look at these images, not a measurement of "
        "the protection.",
    ),
    Flag(
        "one-seed",
        lambda facts: facts.plan.seeds == 1,
        "Every training ran with one seed. What a training learns from protected images changes "
        "much from seed to seed: one that failed here may succeed with another; give --seeds 3.",
    ),
    Flag(
        "generated-masks",
        lambda facts: any(case.generated_masks for case in facts.plan.cases),
        "The masks were drawn by GrabCut and not looked at; a wrong mask makes Safe-Zone Training "
        "look worse than it is.",
    ),
    Flag(
        "stronger-attack-missing",
        lambda facts: bool(
            facts.plan.left_out or facts.failed or any(each.failed for each in facts.outcomes)
        ),
        "Known attackers of the suite did not run here or failed, so the worst case may be worse.",
    ),
)
"""Every flag; the tests raise each of them and leave each of them down."""


def raised(facts: Facts) -> list[Flag]:
    """The flags that hold, in the table's order."""
    return [flag for flag in FLAGS if flag.raised(facts)]
