"""Poisoning images and concepts: rounds of the one projected-gradient loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from safezone.arrays import Images, Masks, PerExample, stream
from safezone.concepts import Concept
from safezone.concepts.masks import dilate
from safezone.errors import UserError
from safezone.images import to_float, to_uint8
from safezone.models.base import Model
from safezone.poisons.checkpoints import Checkpoints
from safezone.poisons.guide import Guide
from safezone.poisons.pgd import projected_gradient
from safezone.poisons.row import Poison
from safezone.poisons.targets import target_image, target_posterior
from safezone.poisons.timestep_search import GreedyTimesteps


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Images that share a pass: clean, float [batch, 3, height, width], and their dilated masks."""

    model: Model
    poison: Poison
    seed: int
    names: Sequence[str]
    clean: Images
    masks: Tensor | None

    def generators(self, *purpose: str) -> list[torch.Generator]:
        return [stream(self.seed, "poison", self.poison.name, n, *purpose) for n in self.names]

    def start(self, generators: Sequence[torch.Generator]) -> Images:
        if self.poison.start == "zero":
            return self.clean
        budget = self.poison.budget
        return self.clean + budget.start(generators, self.clean.shape[1:]).to(self.clean)

    def evaluate(
        self, images: Images, generators: Sequence[torch.Generator], guide: Guide
    ) -> PerExample:
        """The objective at one draw of the poison's transform."""
        if self.poison.transform is not None:
            images, masks = self.poison.transform(images, guide.masks, generators)
            guide = replace(guide, masks=masks)
        return self.poison.objective(self.model, images, generators, guide)

    def step(self, gradient: Tensor, index: int) -> Tensor:
        """The displacement of one step, [batch, 3, height, width]."""
        length = self.poison.direction * self.poison.step_length(index)
        return length * self.poison.budget.steepest(gradient)

    def guide(self) -> Guide:
        """What does not change from round to round, the searched timesteps included."""
        guide = fixed_guide(self.model, self.poison, self.clean, self.masks)
        if not isinstance(self.poison.timesteps, GreedyTimesteps):
            return guide
        found = self.poison.timesteps.search(
            self.model,
            lambda _, images, generators, given: self.evaluate(images, generators, given),
            self.clean,
            self.generators("timesteps"),
            guide,
        )
        return replace(guide, timesteps=found)

    def round_guide(self, guide: Guide, images: Images, done: int) -> Guide:
        """The guide of the round that starts after ``done`` steps: with the surrogate's words."""
        surrogate = self.poison.surrogate
        if surrogate is None:
            return guide
        learned = surrogate.learn(
            self.model, images, self.names, self.poison.prompt, self.seed, done
        )
        return replace(guide, conditioning=learned)

    def run(self, checkpoints: Checkpoints | None, after_step: Callable[[int], object]) -> Images:
        """The poisoned images before rounding; ``after_step`` is told how many steps were done."""
        row, generators = self.poison, self.generators()
        kept = None if checkpoints is None else checkpoints.load(self.names, generators)
        if kept is None:
            done, images = 0, self.start(generators)
        else:
            done, images = kept[0], kept[1].to(self.clean)
            after_step(done)
        if done >= row.steps:
            return images
        guide = self.guide()
        while done < row.steps:
            steps = min(row.round_steps, row.steps - done)
            images = projected_gradient(
                self.clean,
                images,
                partial(self.evaluate, guide=self.round_guide(guide, images, done)),
                self.step,
                row.budget,
                generators,
                steps,
                first=done,
                repetitions=row.repetitions,
                allowed=self.masks,
                name=row.name,
                after_step=lambda: after_step(1),
            )
            done += steps
            if checkpoints is not None:
                checkpoints.save(self.names, done, images, generators)
        return images


@torch.no_grad()
def fixed_guide(model: Model, poison: Poison, clean: Images, masks: Tensor | None = None) -> Guide:
    """The guide of clean images, float [batch, 3, height, width], before any search or training.

    ``masks``: float [batch, 1, height, width] of 0 and 1, dilated already, or None. A prompt's
    ``{}`` is left out until a surrogate has learned something.
    """
    target = target_image(poison.target, *clean.shape[-2:]).to(clean)
    timesteps = poison.timesteps
    steps = model.process.steps
    if isinstance(timesteps, GreedyTimesteps):
        probabilities = torch.full((steps,), 1 / steps, dtype=torch.float64)
    else:
        probabilities = timesteps.probabilities(steps)
    return Guide(
        conditioning=model.embed_text(model.tokenize([poison.prompt.replace("{}", "").strip()])),
        target=target,
        target_posterior=target_posterior(model, poison.target, target),
        clean=clean,
        clean_posterior=model.encode(clean),
        timesteps=probabilities[None],
        masks=masks,
    )


def _dilated(model: Model, poison: Poison, masks: Masks | None) -> Tensor | None:
    """Where the poison may change pixels and its loss counts, float [batch, 1, h, w] or None."""
    if poison.mask is None:
        return None
    if masks is None:
        raise UserError(
            f"Poison {poison.name!r} stays inside the object's mask and there are no masks; make "
            "them with `safezone mask`, or choose a poison without @lm and @szt."
        )
    grown = dilate(masks, poison.mask.radius(masks.shape[-1], model.factor))
    poison.mask.weights(masks, model.factor)  # tells a mask that is empty at latent size
    return grown[:, None].to(torch.float32)


def poison_images(
    model: Model,
    images: Images,
    poison: Poison,
    seed: int,
    image_names: Sequence[str],
    *,
    masks: Masks | None = None,
    batch_size: int = 16,
    progress: bool = True,
    checkpoints: Checkpoints | None = None,
) -> UInt8[Tensor, "batch 3 height width"]:
    """The poisoned images, rounded to 8 bits and inside the budget around the clean 8-bit images.

    ``images``: float [batch, 3, height, width] in [0, 1], rounded to 8 bits first. ``masks``: bool
    [batch, height, width], True on the object, for poisons that stay inside it. Image i draws
    from ``stream(seed, "poison", poison.name, image_names[i])`` alone, so that its poison depends
    neither on its neighbours nor on ``batch_size`` (images that share one pass). With
    ``checkpoints`` it goes on where a killed process has stopped, to the same bytes.

    Raises ValueError unless there is one distinct name per image, UserError when the poison needs
    masks and there are none, FloatingPointError when a gradient breaks.
    """
    if not len(images) == len(image_names) == len(set(image_names)) > 0:
        raise ValueError(f"{len(images)} images need as many distinct names, got {image_names}")
    if batch_size < 1:
        raise UserError(f"The poison's batch size is {batch_size}; give at least 1.")
    clean = to_uint8(images).cpu()
    where = _dilated(model, poison, masks)
    chunks = range(0, len(clean), batch_size)
    found: list[Tensor] = []
    with tqdm(
        total=poison.steps * len(chunks), desc=poison.name, unit="step", disable=not progress
    ) as bar:
        for first in chunks:
            rows = slice(first, first + batch_size)
            chunk = _Chunk(
                model,
                poison,
                seed,
                image_names[rows],
                to_float(clean[rows]).to(model.device),
                None if where is None else where[rows].to(model.device),
            )
            found.append(to_uint8(chunk.run(checkpoints, bar.update)).cpu())
    poisoned = torch.cat(found)
    if not poison.budget.contains(clean, poisoned):
        raise AssertionError(f"poison {poison.name!r} left its budget: a defect of its projection")
    return poisoned


def poison_concept(
    model: Model,
    concept: Concept,
    poison: Poison,
    seed: int,
    *,
    batch_size: int = 16,
    progress: bool = True,
    checkpoints: Checkpoints | None = None,
) -> Concept:
    """The concept with poisoned images; names, masks and words stay (see ``poison_images``)."""
    return concept.with_images(
        poison_images(
            model,
            concept.pixels(),
            poison,
            seed,
            concept.image_names,
            masks=concept.masks,
            batch_size=batch_size,
            progress=progress,
            checkpoints=checkpoints,
        )
    )
