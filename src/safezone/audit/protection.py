"""What is known of a protection: on which models it was made, and whether files keep its budget."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safezone.audit.cases import Case, read_cases
from safezone.concepts import image_files
from safezone.errors import UserError
from safezone.images import short_side
from safezone.lab.settings import fraction
from safezone.models.known import hub_name
from safezone.poisons import Budget


def model_names(name: str) -> frozenset[str]:
    """The last part of the name of each model in ``a + b``: the same for a short name, the hub's
    name and a folder that is called as the model is on the hub."""
    parts = (each.rstrip("/").rpartition("/")[2] for each in name.split(" + "))
    return frozenset(hub_name(part).rpartition("/")[2] for part in parts)


def made_on(case: Case) -> frozenset[str]:
    """The models that the protection was made on; none where nobody says so."""
    model = case.manifest.get("model")
    return model_names(model) if isinstance(model, str) and model else frozenset()


@dataclass(frozen=True)
class Alteration:
    """``over_budget``: whether an image is changed by more than the protection claims.

    ``other_size``: whether files and originals still differ in size at the size of the model, so
    that one of them has lost resolution.
    """

    over_budget: bool
    other_size: bool


def change_of(case: Case) -> Alteration:
    """How the protected images of a concept differ from its originals; not at all without."""
    if case.original is None:
        return Alteration(False, False)
    own, theirs = _sides(case.folder), _sides(case.original)
    size = case.protected.images.shape[-1]
    other = [min(side, size) for side in own] != [min(side, size) for side in theirs]
    budget, common = _claimed(case), {*own, *theirs}
    told = case.manifest.get("image_size")
    if isinstance(told, int):
        size = told
    elif len(common) == 1:
        size = common.pop()
    elif other:
        budget = None  # nobody says at which size it holds
    return Alteration(budget is not None and _exceeds(case, budget, size), other)


def _sides(folder: Path) -> Sequence[int]:
    return sorted(map(short_side, image_files(folder)))


def _claimed(case: Case) -> Budget | None:
    """The budget in the manifest; None where there is none that can be read."""
    kappa, norm = case.manifest.get("kappa"), case.manifest.get("norm", "linf")
    with suppress(UserError, ValueError):
        return None if kappa is None else Budget(fraction(kappa), norm)
    return None


def _exceeds(case: Case, budget: Budget, size: int) -> bool:
    """Whether an image is outside the budget, in squares of so many pixels."""
    if size != case.protected.images.shape[-1]:
        (case,) = read_cases(case.folder, case.original, size)
    return not budget.contains(case.reference.images, case.protected.images)
