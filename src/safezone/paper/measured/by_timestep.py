"""Loss, prediction and gradient by timestep: of figures 4, 5, 10 and 11, and of folders."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from safezone.analysis.closed_form import closed_forms
from safezone.analysis.latents import posterior_of
from safezone.analysis.timesteps import embedding_gradients, noise_statistics, timestep_grid
from safezone.arrays import Timesteps
from safezone.concepts import Concept
from safezone.files import digest
from safezone.lab.bench import Bench
from safezone.models.base import Model, Posterior
from safezone.paper.figure import Figure
from safezone.paper.measured.scenes import MOMENTS, captioned, images, pictures
from safezone.personalize import Adapter
from safezone.results.drawings.bands import expanded_drawing, gradient_drawing, loss_drawing
from safezone.results.drawings.style import Drawing
from safezone.scores import CLEAN

PROMPT: Final = "a photo of a {}"
PAPER_LOSSES: Final = 1000
"""For each concept and timestep of figure 5 (Sec. 4.2)."""
_MOMENTS_GROUP: Final = 250


def statistics(
    model: Model,
    pixels: Tensor,
    prompts: Sequence[str],
    timesteps: Timesteps,
    names: Sequence[Sequence[str]],
    seed: int,
    adapter: Adapter | None = None,
    progress: bool = False,
) -> dict[str, Float[Tensor, "samples timesteps"]]:
    """``loss`` and ``prediction_norm``, with an adapter ``gradient``, [noises x images, timesteps].

    Also ``mean`` and ``std``, the posteriors [images, ...]. ``pixels``: uint8 [images, 3, h, w],
    described by ``prompts``. ``names``: the images' names under every noise, on which it depends.
    """
    posterior = posterior_of(model, pixels)
    if adapter is None:
        tokens, vectors, rows = model.tokenize(list(prompts)), None, None
    else:
        vectors = adapter.vectors.to(model.device)
        tokens = model.tokenize(list(prompts), adapter.placeholder, len(vectors))
        rows = vectors.expand(len(prompts), -1, -1)
    with torch.no_grad():
        conditioning = model.embed_text(tokens, rows)
    parts: dict[str, list[Tensor]] = {}
    for each in tqdm(names, desc="noises", disable=not progress):
        values = noise_statistics(model, posterior, conditioning, timesteps, each, seed=seed)
        if vectors is not None:
            values["gradient"] = embedding_gradients(
                model, posterior, tokens, vectors, timesteps, each, seed=seed
            )
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    joined = {name: torch.cat(values) for name, values in parts.items()}
    return {**joined, "mean": posterior.mean, "std": posterior.std}


def _prompted(bench: Bench) -> tuple[Bench, Mapping[Concept, tuple[str, ...]]]:
    """Images in groups with a prompt for every image, and a bench that knows the groups."""
    if bench.procedural:
        groups = captioned(bench.scope.images, bench.model.image_size)
    else:
        groups = {c: (PROMPT.format(c.class_word),) * len(c.images) for c in bench.concepts}
    named = {group.name: group for group in groups}
    return replace(bench, lab=replace(bench.lab, concepts=named)), groups


def _of_images(
    bench: Bench, data: Sequence[str]
) -> tuple[dict[str, dict[str, Tensor]], Timesteps, str]:
    """``statistics`` of all images by data, one noise each, the timesteps, and what was counted.

    Measured by groups; clean and poisoned images share their noise.
    """
    bench, groups = _prompted(bench)
    bench.poison_all(groups, data)
    timesteps = timestep_grid(bench.model.process.steps, bench.scope.timesteps)
    parts: dict[str, list[dict[str, Tensor]]] = {each: [] for each in data}
    for each, group in bench.each("losses", [(each, group) for each in data for group in groups]):
        concept, prompts, seed = bench.poisoned(group, each), groups[group], bench.scope.seed
        names = [[f"{group.name}/{name}" for name in group.image_names]]
        compute = partial(statistics, bench.model, concept.images, prompts, timesteps, names, seed)
        key = (concept.content_key(), prompts, timesteps.tolist(), seed)
        parts[each].append(bench.measures.arrays("noise", compute, *key))
    joined = {
        each: {name: torch.cat([part[name] for part in group]) for name in group[0]}
        for each, group in parts.items()
    }
    n = f"n = {len(joined[CLEAN]['loss'])} images each, {bench.model.name}"
    return joined, timesteps, n


def losses(bench: Bench, figure: Figure) -> Drawing:
    """Figure 4."""
    arrays, timesteps, n = _of_images(bench, figure.data(bench))
    return loss_drawing({each: a["loss"] for each, a in arrays.items()}, timesteps, n=n)


def _moments(bench: Bench) -> Posterior:
    """The posteriors of clean scenes of their own, for the latents' mean and covariance."""
    count, size, parts = bench.scope.moments, bench.model.image_size, []
    for start in bench.each("moments", range(0, count, _MOMENTS_GROUP)):
        indices = range(start, min(count, start + _MOMENTS_GROUP))

        def compute(indices: range = indices) -> dict[str, Tensor]:
            posterior = posterior_of(bench.model, images(pictures(MOMENTS, indices), size))
            return {"mean": posterior.mean, "std": posterior.std}

        key = (MOMENTS, indices.start, indices.stop, size)
        parts.append(bench.measures.arrays("moments", compute, *key))
    return Posterior(torch.cat([p["mean"] for p in parts]), torch.cat([p["std"] for p in parts]))


def losses_and_norms(bench: Bench, figure: Figure) -> Drawing:
    """Figure 10, with the closed form of appendix B for the measured latents of each data set."""
    arrays, timesteps, n = _of_images(bench, figure.data(bench))
    own = {each: Posterior(a["mean"], a["std"]) for each, a in arrays.items()}
    posteriors = {**own, CLEAN: _moments(bench)} if bench.procedural else own
    return expanded_drawing(
        {each: a["loss"] for each, a in arrays.items()},
        {each: a["prediction_norm"] for each, a in arrays.items()},
        closed_forms(posteriors, bench.model.process, timesteps, own),
        timesteps,
        elements=arrays[CLEAN]["mean"][0].numel(),
        n=n,
    )


def _gradients(bench: Bench, figure: Figure, steps: Sequence[int]) -> Drawing:
    """One panel a step of the training, one curve a data set."""
    runs = [bench.run(concept, data) for concept in bench.concepts for data in figure.data(bench)]
    histories, scope, model = bench.histories(runs, steps), bench.scope, bench.model
    timesteps = timestep_grid(model.process.steps, scope.timesteps)
    values: dict[str, dict[str, list[Tensor]]] = {}
    draws = {
        name: scope.draws if scope.losses is None else -(-scope.losses // len(concept.images))
        for name, concept in bench.lab.concepts.items()
    }
    for step, run in bench.each("gradients", [(step, run) for step in steps for run in runs]):
        concept, vectors = bench.lab.concepts[run.concept], histories[run].at(step)
        pixels = bench.poisoned(concept, run.poison)

        def compute(
            concept: Concept = concept, pixels: Concept = pixels, vectors: Tensor = vectors
        ) -> dict[str, Tensor]:
            prompts = [PROMPT.replace("{}", concept.placeholder)] * len(concept.images)
            tokens = model.tokenize(prompts, concept.placeholder, len(vectors))
            posterior = bench.posterior(pixels)
            every = [
                embedding_gradients(
                    model,
                    posterior,
                    tokens,
                    vectors,
                    timesteps,
                    [f"{concept.name}/{name}/{k}" for name in concept.image_names],
                    seed=scope.seed,
                )
                for k in range(draws[concept.name])
            ]
            return {"gradient": torch.cat(every)}

        key = (pixels.content_key(), digest(vectors), timesteps.tolist(), PROMPT)
        gradient = bench.measures.arrays(
            "gradient", compute, *key, draws[concept.name], scope.seed
        )["gradient"]
        panel = values.setdefault(f"after {step} steps", {})
        panel.setdefault(run.poison, []).append(gradient)
    each = sum(draws[c.name] * len(c.images) for c in bench.concepts) / len(bench.concepts)
    n = f"{bench.concept_count}, n = {each:.0f} losses a concept and timestep"
    if each < PAPER_LOSSES:
        n += f", the paper {PAPER_LOSSES}"
    return gradient_drawing(values, timesteps, n=n, means=len(steps) == 1)


def gradients(bench: Bench, figure: Figure) -> Drawing:
    """Figure 5: one step; by default a fifth of the training, as 1000 steps of 5000."""
    fifth = bench.lab.settings.training.steps // 5
    return _gradients(bench, figure, [fifth if bench.scope.at is None else bench.scope.at])


def gradients_throughout(bench: Bench, figure: Figure) -> Drawing:
    """Figure 11: equally spaced steps over the whole training, clean and several poisons."""
    return _gradients(bench, figure, bench.marks(1000, 2000, 3000, 4000, 5000))
