"""Loss and predicted noise by timestep: of figures 4 and 10, and of folders.

On the built-in model of images of its world that no model was trained on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from safezone.analysis.closed_form import Theory, closed_forms
from safezone.analysis.timesteps import (
    ImageDraws,
    apart,
    disjoint,
    embedding_gradients,
    noise_statistics,
    posterior_of,
    quantile_bands,
    timestep_grid,
)
from safezone.arrays import Timesteps
from safezone.concepts import MOST_IMAGES, Concept
from safezone.images import to_square
from safezone.lab.bench import Bench
from safezone.miniworld import Rendered, render, scene_at
from safezone.models.base import Model, Posterior
from safezone.paper.rows import Figure
from safezone.personalize import Adapter
from safezone.results.drawings.panels import Panel, Series, draw_panels
from safezone.results.drawings.style import Drawing
from safezone.scores import CLEAN

PROMPT: Final = "a photo of a {}"
SCENES: Final = 20_251_125
"""The seed of figures 2, 4 and 10."""
MOMENTS: Final = 20_251_126
"""The seed of the scenes that the closed form's mean and covariance are measured on."""
_MOMENTS_GROUP: Final = 250

BandValues = Mapping[str, Float[Tensor, "samples timesteps"]]
"""By name of the data, ``clean`` first."""


def _pictures(seed: int, indices: Sequence[int]) -> list[Rendered]:
    """The scenes at these places of a seed's sequence."""
    return [render(scene_at(seed, i)) for i in indices]


def _images(scenes: Sequence[Rendered], size: int) -> Tensor:
    """uint8 [n, 3, size, size]."""
    squares = [torch.from_numpy(to_square(each.image, size)) for each in scenes]
    return torch.stack(squares).permute(0, 3, 1, 2).contiguous()


def scene_group(indices: Sequence[int], size: int, word: str = "object") -> Concept:
    """Some scenes with their masks as one concept, called by the first's place."""
    scenes = _pictures(SCENES, indices)
    masks = [torch.from_numpy(to_square(each.mask >= 128, size)) for each in scenes]
    return Concept(
        name=f"Scenes{indices[0]:05d}",
        class_word=word,
        images=_images(scenes, size),
        masks=torch.stack(masks),
        image_names=tuple(f"{i:05d}" for i in indices),
    )


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
        draws = ImageDraws(model, posterior, timesteps, each, seed)
        values = noise_statistics(draws, conditioning)
        if vectors is not None:
            values["gradient"] = embedding_gradients(draws, tokens, vectors)
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    joined = {name: torch.cat(values) for name, values in parts.items()}
    return {**joined, "mean": posterior.mean, "std": posterior.std}


def _of_images(
    bench: Bench, data: Sequence[str]
) -> tuple[dict[str, dict[str, Tensor]], Timesteps, str]:
    """``statistics`` of all images by data, one noise each, the timesteps, and what was counted.

    Measured by groups, with a prompt for every image; clean and poisoned images share their noise.
    """
    if bench.procedural:
        groups, count = {}, bench.scope.images
        for start in range(0, count, MOST_IMAGES):
            indices = range(start, min(count, start + MOST_IMAGES))
            captions = tuple(scene.caption for scene in _pictures(SCENES, indices))
            groups[scene_group(indices, bench.model.image_size)] = captions
    else:
        groups = {c: (PROMPT.format(c.class_word),) * len(c.images) for c in bench.concepts}
    bench = replace(bench, lab=replace(bench.lab, concepts={group.name: group for group in groups}))
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
    """Figure 4: the loss of clean and poisoned images by timestep."""
    arrays, timesteps, n = _of_images(bench, figure.data(bench))
    values = {name: each["loss"] for name, each in arrays.items()}
    title = "median, 50% band (dark), 95% band (light)"
    panel = _panel(title, values, timesteps, "loss: mean squared error of the noise")
    drawn = draw_panels(f"Noise-prediction loss by timestep ({n})", [[panel]], width=4.6, height=3)
    numbers = {"n": n, "timesteps": timesteps, "loss": parting_numbers(values, timesteps)}
    return Drawing(drawn, numbers)


def _moments(bench: Bench) -> Posterior:
    """The posteriors of clean scenes of their own, for the latents' mean and covariance."""
    count, size, parts = bench.scope.moments, bench.model.image_size, []
    for start in bench.each("moments", range(0, count, _MOMENTS_GROUP)):
        indices = range(start, min(count, start + _MOMENTS_GROUP))

        def compute(indices: range = indices) -> dict[str, Tensor]:
            posterior = posterior_of(bench.model, _images(_pictures(MOMENTS, indices), size))
            return {"mean": posterior.mean, "std": posterior.std}

        key = (MOMENTS, indices.start, indices.stop, size)
        parts.append(bench.measures.arrays("moments", compute, *key))
    return Posterior(torch.cat([p["mean"] for p in parts]), torch.cat([p["std"] for p in parts]))


def losses_and_norms(bench: Bench, figure: Figure) -> Drawing:
    """Figure 10, with the closed form of appendix B for the measured latents of each data set."""
    arrays, timesteps, n = _of_images(bench, figure.data(bench))
    own = {each: Posterior(a["mean"], a["std"]) for each, a in arrays.items()}
    posteriors = {**own, CLEAN: _moments(bench)} if bench.procedural else own
    theory = closed_forms(posteriors, bench.model.process, timesteps, own)
    return expanded_drawing(arrays, theory, timesteps, n)


def expanded_drawing(
    arrays: Mapping[str, Mapping[str, Tensor]], theory: Theory, timesteps: Timesteps, n: str
) -> Drawing:
    """Norm of the predicted noise, norm of the error and loss, beside the closed form.

    ``arrays``: ``statistics`` by data, the clean first. ``theory``: of ``closed_forms``; the title
    says from how many images its covariance is, and the numbers also what was left out and why.
    """
    losses = {name: each["loss"] for name, each in arrays.items()}
    norms = {name: each["prediction_norm"] for name, each in arrays.items()}
    elements = next(iter(arrays.values()))["mean"][0].numel()  # its root is E|noise|
    curves = {f"closed form, {name}": each for name, each in theory.curves.items()}
    curves |= {f"one image, {name}": each for name, each in theory.one_image.items()}
    columns = (
        (
            f"norm of the predicted noise (of true noise: {elements**0.5:.0f})",
            norms,
            {name: each.prediction_norm for name, each in curves.items()},
            "l2 norm",
        ),
        (
            "norm of its error",
            {name: (each.double() * elements).sqrt() for name, each in losses.items()},
            {name: (each.loss * elements).sqrt() for name, each in curves.items()},
            "l2 norm",
        ),
        ("loss", losses, {name: e.loss for name, e in curves.items()}, "mean squared error"),
    )
    row = []
    for title, values, forms, ylabel in columns:
        lines = [Series(name, timesteps.double(), y, bare=True) for name, y in forms.items()]
        row.append(_panel(title, values, timesteps, ylabel, lines))
    sources = ", ".join(f"C of {name} from {c.images} images" for name, c in theory.curves.items())
    figure = draw_panels(
        f"Predicted noise and loss by timestep; median, 50% and 95% bands ({n}); closed form: "
        f"{sources or 'left out, too few images'}; one image: exactly, from its own posterior",
        [row],
        width=3.5,
        height=3,
    )
    departure = {}
    for name, form in theory.curves.items():
        gap = quantile_bands(losses[name])["median"] - form.loss
        worst = int(gap.abs().argmax())
        departure[name] = {"largest": float(gap[worst]), "at": int(timesteps[worst])}

    numbers = {
        "n": n,
        "timesteps": timesteps,
        "loss": parting_numbers(losses, timesteps),
        "prediction_norm": parting_numbers(norms, timesteps),
        "closed_form": {name: vars(form) for name, form in theory.curves.items()},
        "closed_form_of_one_image": {k: vars(form) for k, form in theory.one_image.items()},
        "closed_form_left_out": dict(theory.left_out),
        "median_loss_minus_closed_form": departure,
    }
    return Drawing(figure, numbers)


def banded(name: str, timesteps: Timesteps, band: Mapping[str, Tensor]) -> Series:
    """A median with its 50% and 95% bands, of ``quantile_bands``."""
    bands = [(band["low95"], band["high95"]), (band["low50"], band["high50"])]
    return Series(name, timesteps.double(), band["median"], bands)


def _panel(
    title: str,
    values: BandValues,
    timesteps: Timesteps,
    ylabel: str,
    lines: Iterable[Series] = (),
) -> Panel:
    """Medians with their bands, one series a data set, and further lines."""
    series = [banded(name, timesteps, quantile_bands(each)) for name, each in values.items()]
    return Panel(title, [*series, *lines], "timestep t", ylabel, floor=0.0)


def parting_numbers(values: BandValues, timesteps: Timesteps) -> dict[str, Any]:
    """Medians, and beside the first data set: where the others part from it and meet it again,
    where their 50% and 95% bands have nothing in common with its, and the ratio of medians."""
    bands = {name: quantile_bands(each) for name, each in values.items()}
    reference = next(iter(bands.values()))
    numbers: dict[str, Any] = {}
    for name, band in bands.items():
        numbers[name] = {"median": band["median"], "samples": len(values[name])}
        if band is not reference:
            numbers[name] |= {
                **apart(reference, band, timesteps),
                "bands_50_apart_at": disjoint(reference, band, timesteps, 50),
                "bands_95_apart_at": disjoint(reference, band, timesteps, 95),
                "ratio_of_medians": band["median"] / reference["median"],
            }
    return numbers
