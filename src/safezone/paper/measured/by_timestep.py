"""What figures 4, 5, 10 and 11 are measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from safezone.analysis.closed_form import closed_forms
from safezone.analysis.latents import posterior_of
from safezone.analysis.timesteps import embedding_gradients, noise_statistics, timestep_grid
from safezone.concepts import MOST_IMAGES, Concept
from safezone.files import digest
from safezone.images import to_square
from safezone.lab.bench import Bench
from safezone.lab.trajectory import Cell, Trajectory, trajectories
from safezone.miniworld import render, scene_at
from safezone.models.base import Posterior
from safezone.results.drawings.bands import expanded_drawing, gradient_drawing, loss_drawing
from safezone.results.drawings.style import Drawing
from safezone.scores import CLEAN

SCENES: Final = 20_251_125
"""The seed of scenes that no model was trained on."""
MOMENTS: Final = 20_251_126
"""The seed of the scenes that the closed form's mean and covariance are measured on."""
_MOMENTS_GROUP: Final = 250
PROMPT: Final = "a photo of a {}"
CHECKPOINTS: Final = 4
"""Panels of figure 11, equally spaced over the training."""


def scenes(count: int, size: int) -> dict[Concept, tuple[str, ...]]:
    """Random scenes of the built-in world in groups of 15, each with its captions."""
    found = {}
    for start in range(0, count, MOST_IMAGES):
        pictures = [
            render(scene_at(SCENES, i)) for i in range(start, min(count, start + MOST_IMAGES))
        ]
        images = [torch.from_numpy(to_square(p.image, size)).permute(2, 0, 1) for p in pictures]
        masks = [torch.from_numpy(to_square(p.mask >= 128, size)) for p in pictures]
        group = Concept(
            name=f"Scenes{start:05d}",
            class_word="object",
            images=torch.stack(images).contiguous(),
            masks=torch.stack(masks),
            image_names=tuple(f"{start + i:05d}" for i in range(len(pictures))),
        )
        found[group] = tuple(picture.caption for picture in pictures)
    return found


def _images(bench: Bench) -> tuple[Bench, Mapping[Concept, tuple[str, ...]]]:
    """The groups with a prompt for every image, and a bench that knows the groups."""
    if bench.procedural:
        groups = scenes(bench.scope.images, bench.model.image_size)
    else:
        groups = {c: (PROMPT.format(c.class_word),) * len(c.images) for c in bench.concepts}
    named = {group.name: group for group in groups}
    return replace(bench, lab=replace(bench.lab, concepts=named)), groups


def _measure(
    bench: Bench, group: Concept, images: Concept, prompts: Sequence[str], timesteps: Tensor
) -> dict[str, Tensor]:
    posterior = bench.posterior(images)
    names = [f"{group.name}/{name}" for name in group.image_names]
    with torch.no_grad():
        conditioning = bench.model.embed_text(bench.model.tokenize(list(prompts)))
    seed = bench.scope.seed
    found = noise_statistics(bench.model, posterior, conditioning, timesteps, names, seed=seed)
    return {**found, "mean": posterior.mean, "std": posterior.std}


def statistics_by_timestep(bench: Bench, *own: str) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
    """``loss``, ``prediction_norm``, ``mean`` and ``std`` of all images by data, and the timesteps.

    Cached by groups of 15 images; clean and poisoned images share their noise.
    """
    data = bench.scope.data(*own)
    bench, groups = _images(bench)
    bench.poison_all(groups, data)
    timesteps = timestep_grid(bench.model.process.steps, bench.scope.timesteps)
    parts: dict[str, list[dict[str, Tensor]]] = {each: [] for each in data}
    units = [(each, group) for each in data for group in groups]
    for each, group in bench.each("losses", units):
        images, prompts = bench.poisoned(group, each), groups[group]
        key = (bench.lab.model_key, images.content_key(), prompts, timesteps.tolist())
        place = bench.cache.place("noise", *key, bench.scope.seed)
        compute = partial(_measure, bench, group, images, prompts, timesteps)
        parts[each].append(bench.cache.arrays(place, compute))
    joined = {
        each: {name: torch.cat([p[name] for p in found]) for name in found[0]}
        for each, found in parts.items()
    }
    return joined, timesteps


def _count(bench: Bench, arrays: Mapping[str, Mapping[str, Tensor]]) -> str:
    return f"n = {len(arrays[CLEAN]['loss'])} images each, {bench.model.name}"


def losses(bench: Bench) -> Drawing:
    """Figure 4."""
    arrays, timesteps = statistics_by_timestep(bench, "adm+")
    values = {each: found["loss"] for each, found in arrays.items()}
    return loss_drawing(values, timesteps, n=_count(bench, arrays))


def _moments(bench: Bench) -> Posterior:
    """The posteriors of clean scenes of their own, for the latents' mean and covariance; cached."""
    parts = []
    count, size = bench.scope.moments, bench.model.image_size
    for start in bench.each("moments", range(0, count, _MOMENTS_GROUP)):
        stop = min(count, start + _MOMENTS_GROUP)

        def compute(start: int = start, stop: int = stop) -> dict[str, Tensor]:
            pictures = [render(scene_at(MOMENTS, i)).image for i in range(start, stop)]
            images = [torch.from_numpy(to_square(p, size)).permute(2, 0, 1) for p in pictures]
            found = posterior_of(bench.model, torch.stack(images).contiguous())
            return {"mean": found.mean, "std": found.std}

        key = (bench.lab.model_key, MOMENTS, start, stop, size)
        parts.append(bench.cache.arrays(bench.cache.place("moments", *key), compute))
    return Posterior(torch.cat([p["mean"] for p in parts]), torch.cat([p["std"] for p in parts]))


def losses_and_norms(bench: Bench) -> Drawing:
    """Figure 10, with the closed form of appendix B for the measured latents of each data set."""
    arrays, timesteps = statistics_by_timestep(bench, "adm+")
    posteriors = {each: Posterior(found["mean"], found["std"]) for each, found in arrays.items()}
    if bench.procedural:
        posteriors[CLEAN] = _moments(bench)
    theory = closed_forms(posteriors, bench.model.process, timesteps)
    return expanded_drawing(
        {each: found["loss"] for each, found in arrays.items()},
        {each: found["prediction_norm"] for each, found in arrays.items()},
        theory,
        timesteps,
        elements=arrays[CLEAN]["mean"][0].numel(),
        n=_count(bench, arrays),
    )


def _gradient(
    bench: Bench, concept: Concept, images: Concept, vectors: Tensor, timesteps: Tensor
) -> Tensor:
    """[images x draws, timesteps] of one concept, data set and checkpoint; cached."""
    scope = bench.scope

    def compute() -> dict[str, Tensor]:
        posterior = bench.posterior(images)
        prompts = [PROMPT.replace("{}", concept.placeholder)] * len(concept.images)
        tokens = bench.model.tokenize(prompts, concept.placeholder, len(vectors))
        found = []
        for k in range(scope.draws):
            names = [f"{concept.name}/{name}/{k}" for name in concept.image_names]
            found.append(
                embedding_gradients(
                    bench.model, posterior, tokens, vectors, timesteps, names, seed=scope.seed
                )
            )
        return {"gradient": torch.cat(found)}

    key = (bench.lab.model_key, images.content_key(), digest(vectors), timesteps.tolist())
    place = bench.cache.place("gradient", *key, PROMPT, scope.draws, scope.seed)
    return bench.cache.arrays(place, compute)["gradient"]


def _gradients(
    bench: Bench, data: Sequence[str], marks: Sequence[int]
) -> tuple[dict[str, dict[str, list[Tensor]]], Tensor]:
    """By checkpoint and data, one array a concept. ``marks``: steps, the nearest marks count."""
    cells = {(c.name, d): Cell(c, d) for c in bench.concepts for d in data}
    found = trajectories(bench, list(cells.values()), marks[0] if len(marks) == 1 else None)
    timesteps = timestep_grid(bench.model.process.steps, bench.scope.timesteps)
    result: dict[str, dict[str, list[Tensor]]] = {}
    units = [(step, cell) for step in marks for cell in cells.values()]
    for step, cell in bench.each("gradients", units):
        trajectory: Trajectory = found[cell.label]
        mark = trajectory.nearest(step)
        images = bench.poisoned(cell.concept, cell.data)
        values = _gradient(bench, cell.concept, images, trajectory.vectors[mark], timesteps)
        panel = result.setdefault(f"after {trajectory.steps[mark]} steps", {})
        panel.setdefault(cell.data, []).append(values)
    return result, timesteps


def _gradient_count(bench: Bench) -> str:
    concepts = bench.concepts
    each = sum(len(c.images) for c in concepts) * bench.scope.draws / len(concepts)
    return f"{bench.concept_count}, n = {each:.0f} losses a concept and timestep"


def gradients(bench: Bench) -> Drawing:
    """Figure 5: one checkpoint; by default a fifth of the training, as 1000 steps of 5000."""
    steps = bench.lab.settings.training.steps
    at = steps // 5 if bench.scope.at is None else bench.scope.at
    found, timesteps = _gradients(bench, bench.scope.data("adm+"), [at])
    return gradient_drawing(found, timesteps, n=_gradient_count(bench))


def gradients_throughout(bench: Bench) -> Drawing:
    """Figure 11: checkpoints over the whole training, clean and several poisons."""
    steps = bench.lab.settings.training.steps
    marks = [steps * k // CHECKPOINTS for k in range(1, CHECKPOINTS + 1)]
    found, timesteps = _gradients(bench, bench.scope.data("adm+", "adm-", "ea"), marks)
    return gradient_drawing(found, timesteps, n=_gradient_count(bench))
