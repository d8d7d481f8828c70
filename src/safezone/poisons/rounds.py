"""What happens between steps of a poison: ASPL's surrogates learn, SimAC's timesteps are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from safezone.arrays import Draws, Images, rand, stream_seed
from safezone.concepts import Concept
from safezone.defenses import defense
from safezone.fields import Checked, Count, Rate, Share
from safezone.images import to_uint8
from safezone.models.base import Conditioning, Model
from safezone.personalize import TextualInversion, TrainingRun, train
from safezone.poisons.guide import Guide, ModelObjective

_PLACEHOLDER: Final = "<surrogate>"


@dataclass(frozen=True)
class Surrogate(Checked):
    """Trains on the images as poisoned so far, in turns with steps of the poison (ASPL, Van Le et
    al. 2023).

    ``rounds``: how often the surrogate is trained anew, at equal distances over the poison's
    steps. ``steps``, ``learning_rate``: of each training. ``word``: where the learned vector
    starts.

    The surrogate is textual inversion by the project's own engine; Anti-DreamBooth fine-tunes the
    U-Net and carries it on from round to round. Each image has a surrogate of its own, started
    afresh each round, so that an image's poison does not depend on its neighbours; the released
    code trains one on all images of a person. Raises FieldError for values out of range.
    """

    rounds: Count = 5
    steps: Count = 50
    learning_rate: Rate = 5e-3
    word: str = "object"

    def learn(
        self, model: Model, images: Images, names: Sequence[str], prompt: str, seed: int, done: int
    ) -> Conditioning:
        """The prompt with what each image's surrogate has learned for its ``{}``, [batch] rows.

        ``done``: the poison's steps so far, which names the training's random stream.
        """
        method = TextualInversion(
            steps=self.steps,
            learning_rate=self.learning_rate,
            initializer=self.word,
            checkpoint_every=0,
        )
        runs = [
            TrainingRun(
                key=f"{row} {name}",  # images of several concepts may have one name
                concept=Concept(
                    name=f"image-{stream_seed(name)}",  # a name may not be fit for a file
                    class_word=self.word,
                    placeholder=_PLACEHOLDER,
                    images=to_uint8(image[None]).cpu(),
                    image_names=("0",),
                ),
                defense=defense("nominal"),
                seed=stream_seed(seed, "poison", "surrogate", done),
            )
            for row, (name, image) in enumerate(zip(names, images, strict=True))
        ]
        with torch.enable_grad():
            adapters = train(model, runs, method, progress=False)
        tokens = model.tokenize([prompt.replace("{}", _PLACEHOLDER)] * len(runs), _PLACEHOLDER)
        vectors = torch.stack([adapter.vectors for adapter in adapters]).to(model.device)
        with torch.no_grad():
            return model.embed_text(tokens, vectors)


@dataclass(frozen=True)
class GreedyTimesteps(Checked):
    """Leaves the timesteps whose gradients are largest, for each image by itself (SimAC, Wang et
    al. 2024).

    Before the first step, again and again ``candidates`` timesteps are drawn from those that are
    left, the gradient of the objective at the clean image is taken at each, and the one with the
    smallest l1 norm goes, with all timesteps within ``window`` of it; until at most ``keep`` are
    left. ``window`` and ``keep`` are shares of all timesteps. With the defaults that is about 25
    rounds of 5 gradients. SimAC's other half, which attacks features of the U-Net's layers, is not
    here. Raises FieldError for shares out of range.
    """

    candidates: Annotated[int, Field(ge=2)] = 5
    window: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
    keep: Share = 0.1

    def search(
        self,
        model: Model,
        objective: ModelObjective,
        images: Images,
        generators: Draws,
        guide: Guide,
    ) -> Float[Tensor, "batch steps"]:
        """Equal probabilities at the timesteps left, float64 [batch, steps]."""
        steps = model.process.steps

        @torch.enable_grad()
        def norm(timesteps: Tensor) -> Tensor:
            """The l1 norm of the objective's gradient at the given timesteps, [batch]."""
            certain = torch.nn.functional.one_hot(timesteps, steps).to(torch.float64)
            pixels = images.detach().clone().requires_grad_(True)
            value = objective(model, pixels, generators, replace(guide, timesteps=certain)).sum()
            (gradient,) = torch.autograd.grad(value, pixels)
            return gradient.flatten(1).abs().sum(dim=1).cpu()

        reach, most = round(self.window * steps), max(1, round(self.keep * steps))
        left = torch.ones(len(images), steps, dtype=torch.bool)
        unfinished, numbers = left.sum(dim=1) > most, torch.arange(steps)
        while bool(unfinished.any()):
            places = rand(generators, (self.candidates,)) * left.sum(dim=1, keepdim=True)
            rank = left.long().cumsum(dim=1) - 1  # of each timestep among those left
            drawn = torch.searchsorted(rank.contiguous(), places.long())  # [batch, candidates]
            norms = [norm(column) for column in drawn.unbind(dim=1)]
            worst = drawn.gather(1, torch.stack(norms, dim=1).argmin(dim=1, keepdim=True))
            near = (numbers - worst).abs() <= reach
            kept = left & ~near
            unfinished &= kept.any(dim=1)  # else this image keeps what it has
            left = torch.where(unfinished[:, None], kept, left)
            unfinished &= left.sum(dim=1) > most
        return left.to(torch.float64) / left.sum(dim=1, keepdim=True)
