"""Poisoning images and concepts: rounds of the one projected-gradient loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from tqdm import tqdm

from safezone.arrays import Images, Masks, PerExample, stream
from safezone.concepts import Concept
from safezone.concepts.masks import dilate
from safezone.errors import UserError
from safezone.images import to_float, to_uint8
from safezone.models.base import Model
from safezone.models.fingerprint import fingerprint
from safezone.poisons.checkpoints import Checkpoints
from safezone.poisons.guide import Guide, ModelObjective, bound
from safezone.poisons.pgd import projected_gradient
from safezone.poisons.row import Poison
from safezone.poisons.targets import target_image, target_posterior
from safezone.poisons.timestep_search import GreedyTimesteps


@dataclass(frozen=True, eq=False)
class _Pass:
    """Images that share a pass: clean, float [batch, 3, height, width], and their dilated masks.

    ``objectives``: the poison's, for each of the models.
    """

    models: Sequence[Model]
    objectives: Sequence[ModelObjective]
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

    @cached_property
    def shape(self) -> Callable[[Images], Images]:
        """The images with their perturbation shaped as the poison says."""
        if self.poison.shaping is None:
            return lambda images: images
        shape = self.poison.shaping.fit(self.clean)

        def shaped(images: Images) -> Images:
            delta = shape(images - self.clean)
            if self.masks is not None:
                delta = delta * self.masks
            return (self.clean + self.poison.budget.project(delta)).clamp(0, 1)

        return shaped

    def evaluate(
        self,
        images: Images,
        generators: Sequence[torch.Generator],
        guides: Sequence[Guide],
    ) -> PerExample:
        """The objective at one draw of the poison's transform, its mean over the models."""
        images, masks = self.shape(images), self.masks
        if self.poison.transform is not None:
            images, masks = self.poison.transform(images, masks, generators)
        values = [
            objective(model, images, generators, replace(guide, masks=masks))
            for model, objective, guide in zip(self.models, self.objectives, guides, strict=True)
        ]
        return torch.stack(values).mean(dim=0)

    def step(self, gradient: Tensor, index: int) -> Tensor:
        """The displacement of one step, [batch, 3, height, width]."""
        length = self.poison.direction * self.poison.step_length(index)
        return length * self.poison.budget.steepest(gradient)

    def guides(self) -> list[Guide]:
        """What does not change from round to round, of each model: searched timesteps as well."""
        guides = [fixed_guide(m, self.poison, self.clean, self.masks) for m in self.models]
        search = self.poison.timesteps
        if not isinstance(search, GreedyTimesteps):
            return guides
        result = []
        for k, (model, guide) in enumerate(zip(self.models, guides, strict=True)):
            alone = replace(self, models=[model], objectives=[self.objectives[k]])
            timesteps = search.search(
                model,
                lambda _, images, generators, guide, alone=alone: alone.evaluate(  # type: ignore[misc]
                    images, generators, [guide]
                ),
                self.clean,
                self.generators("timesteps"),
                guide,
            )
            result.append(replace(guide, timesteps=timesteps))
        return result

    def round_guides(self, guides: Sequence[Guide], images: Images, done: int) -> Sequence[Guide]:
        """The guides of the round after ``done`` steps: with the words of the surrogates."""
        surrogate = self.poison.surrogate
        if surrogate is None:
            return guides
        training = self.shape(images), self.names, self.poison.prompt, self.seed, done
        return [
            replace(guide, conditioning=surrogate.learn(model, *training))
            for model, guide in zip(self.models, guides, strict=True)
        ]

    def run(self, checkpoints: Checkpoints | None, after_step: Callable[[int], object]) -> Images:
        """The poisoned images before rounding; ``after_step`` gets how many steps were done."""
        row, generators = self.poison, self.generators()
        kept = None if checkpoints is None else checkpoints.load(self.names, generators)
        if kept is None:
            done, images = 0, self.start(generators)
        else:
            done, images = kept[0], kept[1].to(self.clean)
            after_step(done)
        guides = self.guides() if done < row.steps else []
        while done < row.steps:
            steps = min(row.round_steps, row.steps - done)
            images = projected_gradient(
                self.clean,
                images,
                partial(self.evaluate, guides=self.round_guides(guides, images, done)),
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
        with torch.no_grad():
            return self.shape(images)


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


def poison_fingerprints(poison: Poison, models: Model | Sequence[Model]) -> list[str]:
    """Of all networks that the poison is made with, for its key: the models and its objective's.

    Raises UserError when one of its objective's networks cannot be opened.
    """
    return [
        fingerprint(network) if isinstance(network, nn.Module) else network.fingerprint()
        for model in _sequence(models)
        for network in (model, *bound(poison.objective, model).networks)
    ]


def _sequence(models: Model | Sequence[Model]) -> Sequence[Model]:
    return models if isinstance(models, Sequence) else (models,)


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
    poison.mask.cells(masks, model.factor, "the concept")  # refuses one that is empty there
    return grown[:, None].to(torch.float32)


def poison_images(
    model: Model | Sequence[Model],
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

    ``model``: the one that the poison is made on, or several, whose objectives are averaged.
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
    models = _sequence(model)
    objectives = [bound(poison.objective, each).value for each in models]
    device = models[0].device
    clean = to_uint8(images).cpu()
    where = _dilated(models[0], poison, masks)
    passes = range(0, len(clean), batch_size)
    result: list[Tensor] = []
    with tqdm(
        total=poison.steps * len(passes), desc=poison.name, unit="step", disable=not progress
    ) as bar:
        for first in passes:
            rows = slice(first, first + batch_size)
            one = _Pass(
                models,
                objectives,
                poison,
                seed,
                image_names[rows],
                to_float(clean[rows]).to(device),
                None if where is None else where[rows].to(device),
            )
            result.append(to_uint8(one.run(checkpoints, bar.update)).cpu())
    poisoned = torch.cat(result)
    if not poison.budget.contains(clean, poisoned):
        raise AssertionError(f"poison {poison.name!r} left its budget: a defect of its projection")
    return poisoned


def poison_concept(
    model: Model | Sequence[Model],
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
