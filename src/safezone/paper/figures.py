"""The paper's figures that need trainings as grids: 1, 3, 5, 6, 8, 9, 11 and 16 to 21.

``safezone figure N --work runs/grids/work`` draws a figure from what its grid has made there: of
generated images (1, 8, 17 to 21) everything, of 3, 5 and 9 the short trainings. 6, 11 and 16 follow
the learned vectors along a training, of which a run keeps only the last: they take the poisons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from safezone.lab.run import TEXTUAL_INVERSION, Grid, Scope
from safezone.paper.designs import DEFENSES, SEVEN, table
from safezone.scores.rows import CLEAN, NOMINAL

Item = TypeVar("Item")

CANDIDATES: Final = 4
"""Images of each cell, of which a figure shows the most faithful one."""


@dataclass(frozen=True)
class Gallery:
    """A figure of generated images: rows are concepts, or the data of one; columns are defenses.

    ``count`` concepts from place ``first`` on, the last ones where there are fewer. ``phrase``:
    what the prompt says beside the learned word.
    """

    first: int
    count: int
    phrase: str
    poisons: tuple[str, ...] = ("adm+",)
    defenses: tuple[str, ...] = DEFENSES

    @property
    def prompt(self) -> str:
        """With ``{}`` for the learned word."""
        return f"a photo of a {{}} {self.phrase}"

    def chosen(self, concepts: Sequence[Item]) -> Sequence[Item]:
        """Those of all concepts that are shown."""
        return concepts[self.first : self.first + self.count] or concepts[-self.count :]

    def grid(self, name: str, scope: Scope) -> Grid:
        """The runs behind the figure; of a single concept also those on its clean images."""
        return Grid.product(
            name,
            concepts=self.chosen(scope.concepts),
            poisons=((CLEAN, *self.poisons) if self.count == 1 else self.poisons),
            defenses=self.defenses,
            seeds=scope.seeds,
            model=scope.model,
        )


GALLERIES: Final[Mapping[int, Gallery]] = MappingProxyType(
    {
        1: Gallery(0, 5, "on grass", defenses=(NOMINAL, "szt")),
        8: Gallery(0, 1, "on the beach"),
        18: Gallery(5, 5, "in the snow"),
        19: Gallery(5, 1, "in the snow", SEVEN[1:]),
        20: Gallery(0, 5, "on the beach"),
        21: Gallery(3, 1, "on the beach", SEVEN[1:]),
    }
)
"""By the figure's number. The prompts are the paper's but for figure 1, whose wheat field the
built-in world does not know."""


def _one(scope: Scope, name: str, place: int) -> tuple[str, ...]:
    """The built-in concept of that name, else the one at that place, else the last."""
    return (name,) if name in scope.concepts else scope.concepts[place:][:1] or scope.concepts[-1:]


def _looked_into(
    number: int,
    scope: Scope,
    poisons: Sequence[str],
    *,
    defenses: Sequence[str] = (NOMINAL,),
    steps: str | None = None,
    concepts: Sequence[str] | None = None,
) -> Grid:
    """The trainings that a figure looks into, up to the step (the paper's) that it looks at."""
    method = TEXTUAL_INVERSION if steps is None else f"{TEXTUAL_INVERSION}; steps={steps}"
    return Grid.product(
        f"figure{number}",
        concepts=scope.concepts if concepts is None else concepts,
        poisons=(CLEAN, *poisons),
        defenses=defenses,
        seeds=scope.seeds,
        model=scope.model,
        methods=(method,),
    )


def figure1(scope: Scope) -> Grid:
    """Generated images of five concepts, Nominal beside SZT.

    ``safezone grid run figure1 --model mini --seeds 1``

    Cost: 10 trainings and 5 poisonings a seed, none after table17; 4 images a training.
    The paper: under ADM+ Nominal draws debris, SZT recovers shape, colour and texture.
    ``safezone figure 1 --work runs/grids/work`` draws it from these images.
    """
    return GALLERIES[1].grid("figure1", scope)


def figure3(scope: Scope) -> Grid:
    """Sensitivity maps before and after 500 steps of training: those short trainings.

    ``safezone grid run figure3 --model mini --seeds 1``

    Cost: 2 trainings of a tenth of the steps and 1 poisoning a seed.
    The paper: after training the maps of poisoned images are noisy and leave the object.
    ``safezone figure 3 --work runs/grids/work`` draws it from these trainings.
    """
    return _looked_into(3, scope, ("adm+",), steps="500", concepts=_one(scope, "HattedMug", 0))


def figure5(scope: Scope) -> Grid:
    """Gradient by timestep after 1000 steps of training: those short trainings.

    ``safezone grid run figure5 --model mini --concepts 10 --seeds 1``

    Cost: 2 trainings of a fifth of the steps and 1 poisoning for each concept and seed.
    The paper: gradients are largest at low to middle timesteps, those of poisoned images far more.
    ``safezone figure 5 --work runs/grids/work`` draws it from these trainings.
    """
    return _looked_into(5, scope, ("adm+",), steps="1k")


def figure6(scope: Scope) -> Grid:
    """Loss inside and outside the concept during training: the trainings.

    ``safezone grid run figure6 --model mini --concepts 7 --seeds 1``

    Cost: 4 trainings and 3 poisonings for each concept and seed, none after table17.
    The paper: on clean images only the inside is learned, under ADM+, SDS+ and EA both alike.
    ``safezone figure 6 --work runs/grids/work`` draws it with the poisons made here.
    """
    return _looked_into(6, scope, ("adm+", "sds+", "ea"))


def figure8(scope: Scope) -> Grid:
    """Generated images of one concept under ADM+, by defense, on the beach.

    ``safezone grid run figure8 --model mini --seeds 1``

    Cost: 20 trainings and 1 poisoning a seed, none after table17; 4 images a training.
    The paper: JPEG and LM alone recover a part, SZT shape and texture.
    ``safezone figure 8 --work runs/grids/work`` draws it from these images.
    """
    return GALLERIES[8].grid("figure8", scope)


def figure9(scope: Scope) -> Grid:
    """Sensitivity maps of a second concept, as figure 3.

    ``safezone grid run figure9 --model mini --seeds 1``

    Cost: 2 trainings of a tenth of the steps and 1 poisoning a seed.
    The paper: as figure 3, of FishDoll.
    ``safezone figure 9 --work runs/grids/work`` draws it from these trainings.
    """
    return _looked_into(9, scope, ("adm+",), steps="500", concepts=_one(scope, "PartyFish", 1))


def figure11(scope: Scope) -> Grid:
    """Gradient by timestep throughout training: the trainings.

    ``safezone grid run figure11 --model mini --concepts 10 --seeds 1``

    Cost: 4 trainings and 3 poisonings for each concept and seed, none after table17.
    The paper: ADM- lessens the lead of low timesteps, ADM+ and EA keep it.
    ``safezone figure 11 --work runs/grids/work`` draws it with the poisons made here.
    """
    return _looked_into(11, scope, ("adm+", "adm-", "ea"))


def figure16(scope: Scope) -> Grid:
    """In-region ratio during training, without and with loss masking: the trainings.

    ``safezone grid run figure16 --model mini --concepts 10 --seeds 1``

    Cost: 6 trainings and 2 poisonings for each concept and seed, none after table17.
    The paper: the ratio rises on clean images, under poisons only with LM.
    ``safezone figure 16 --work runs/grids/work`` draws it with the poisons made here.
    """
    return _looked_into(16, scope, ("adm+", "ea"), defenses=(NOMINAL, "lm"))


def figure17(scope: Scope) -> Grid:
    """DINOv2 similarity against CLIP score of ten defenses: tables 1 and 16 as a plane.

    ``safezone grid run figure17 --model mini --concepts 10 --seeds 3``

    Cost: none after table1, whose runs these are.
    The paper: SZT (0.46, 0.53) lies beyond all existing defenses, the best of which is JPEG
    (0.37, 0.50).
    The grid's page draws it; ``safezone figure 17 --work runs/grids/work`` does so for one seed.
    """
    return table(1, scope, DEFENSES, name="figure17")


def figure18(scope: Scope) -> Grid:
    """Generated images of five concepts under ADM+, by defense, in the snow (CustomConcept101).

    ``safezone grid run figure18 --model mini --seeds 1``

    Cost: 50 trainings and 5 poisonings a seed, none after table1; 4 images a training.
    The paper: as figure 8.
    ``safezone figure 18 --work runs/grids/work`` draws it from these images.
    """
    return GALLERIES[18].grid("figure18", scope)


def figure19(scope: Scope) -> Grid:
    """Generated images of one concept, by poison and defense, in the snow (CustomConcept101).

    ``safezone grid run figure19 --model mini --seeds 1``

    Cost: 70 trainings and 6 poisonings a seed, none after table1; 4 images a training.
    The paper: as figure 8, under every poison.
    ``safezone figure 19 --work runs/grids/work`` draws it from these images.
    """
    return GALLERIES[19].grid("figure19", scope)


def figure20(scope: Scope) -> Grid:
    """Generated images of five concepts under ADM+, by defense, on the beach.

    ``safezone grid run figure20 --model mini --seeds 1``

    Cost: 50 trainings and 5 poisonings a seed, none after table17; 4 images a training.
    The paper: as figure 8.
    ``safezone figure 20 --work runs/grids/work`` draws it from these images.
    """
    return GALLERIES[20].grid("figure20", scope)


def figure21(scope: Scope) -> Grid:
    """Generated images of one concept, by poison and defense, on the beach.

    ``safezone grid run figure21 --model mini --seeds 1``

    Cost: 70 trainings and 6 poisonings a seed, none after table17; 4 images a training.
    The paper: as figure 8, under every poison.
    ``safezone figure 21 --work runs/grids/work`` draws it from these images.
    """
    return GALLERIES[21].grid("figure21", scope)
