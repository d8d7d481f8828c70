"""Figures 2, 3 and 9, and of folders: where in the image a word acts, before and during training.

A map is measured once, and drawn beside the image that it is of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from safezone.analysis.sensitivity import (
    START,
    Slots,
    cross_attention_maps,
    in_region_ratio,
    random_rows,
    semantic_sensitivity,
    word_slots,
)
from safezone.analysis.timesteps import image_draws, posterior_of
from safezone.arrays import Timesteps, stream
from safezone.concepts import Concept
from safezone.concepts.masks import latent_mask
from safezone.concepts.prompts import fill
from safezone.errors import UserError
from safezone.files import digest
from safezone.lab.bench import Bench, Measures
from safezone.miniworld import BACKGROUND_PHRASES, novel_concepts, scene_at
from safezone.models.base import Posterior
from safezone.paper.measured.by_timestep import PROMPT, SCENES, scene_group
from safezone.paper.rows import Figure
from safezone.results.drawings.panels import Tile, draw_tiles
from safezone.results.drawings.style import Drawing

SCENES_SHOWN: Final = 3
"""Lines of figure 2."""
COLUMNS: Final = ("start token", "object", "other word")
TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of all steps, where figures 3 and 9 look."""


@dataclass(frozen=True, eq=False)
class WordMap:
    """A map of a word. ``word``: written below it. ``ratio``: its R, where the object is known;
    ``error``: the standard error of that over noises, None for a single noise."""

    values: Float[Tensor, "h w"]
    word: str = ""
    ratio: float | None = None
    error: float | None = None

    @property
    def below(self) -> str:
        """The line or lines under it."""
        texts = [f"“{self.word}”"] if self.word else []
        if self.ratio is not None:
            spread = "" if self.error is None else f" ± {self.error:.2f}"
            texts.append(f"R = {self.ratio:.2f}{spread}")
        return "\n".join(texts)


@dataclass(frozen=True, eq=False)
class MapRow:
    """An image and maps of it by their columns. ``outline``: the object, at the maps' size."""

    label: str
    image: UInt8[Tensor, "3 h w"]
    maps: Mapping[str, WordMap]
    outline: Float[Tensor, "h w"] | None


def maps_drawing(title: str, rows: Sequence[MapRow], **numbers: Any) -> Drawing:
    """One line a row; the numbers are R by row and column, and those given."""
    tiles: list[list[Tile | None]] = [
        [Tile(row.image), *(Tile(m.values, m.below, row.outline) for m in row.maps.values())]
        for row in rows
    ]
    figure = draw_tiles(
        f"{title}; each map from 0 to its own 98% quantile",
        tiles,
        [row.label.replace(", ", ",\n") for row in rows],
        ["image", *(name.replace(", ", ",\n") for name in rows[0].maps)],
    )
    ratios: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in rows:
        for column, each in row.maps.items():
            if each.ratio is not None:
                name = column.removeprefix("SSM, ").replace(" = ", "=")
                own = {"R": each.ratio, "standard_error": each.error}
                ratios.setdefault(row.label, {})[name] = own
    return Drawing(figure, {"in_region_ratio": ratios, **numbers})


@dataclass(frozen=True, eq=False)
class Probe:
    """What a map depends on beside the word and the image.

    ``rows``: of the vocabulary; ``noises``: draws of each image's noise, which maps are averaged
    over.
    """

    measures: Measures
    rows: int
    seed: int
    noises: int = 1

    @property
    def about(self) -> str:
        """For a title."""
        return (
            f"K = {self.rows} rows, {self.noises} noises (R ± standard error over them), "
            f"{self.measures.model.name}"
        )

    def arrays(
        self, slots: Slots, posterior: Posterior, names: Sequence[str], times: Timesteps
    ) -> dict[str, Float[Tensor, "images times h w"]]:
        """``maps``, their standard ``error`` and ``attention`` of one word; ``each`` map before the
        mean over noises, [images, times, noises, h, w].

        Vocabulary rows and noise are the same for an image's clean and poisoned versions, and for
        every step of a training: they depend on the seed and on ``names``.
        """
        model = self.measures.model

        def compute() -> dict[str, Tensor]:
            generator = stream(self.seed, "sensitivity rows")
            rows = random_rows(model, self.rows, len(slots.vectors), generator)
            repeated = times.repeat(len(names))
            maps, errors, attention = [], [], []
            for k in range(self.noises):
                drawn = [f"{name}/{k}" if k else name for name in names]
                latents, noise = image_draws(posterior, drawn, len(times), self.seed)
                means, deviations = semantic_sensitivity(
                    model, slots, latents, noise, repeated, rows
                )
                maps.append(means)
                errors.append(deviations)
                attention.append(cross_attention_maps(model, slots, latents, noise, repeated))
            whole = {
                "maps": torch.stack(maps).mean(dim=0),
                # The rows are the same for all noises, so their errors do not average out.
                "error": torch.stack(errors).mean(dim=0),
                "attention": torch.stack(attention).mean(dim=0),
                "each": torch.stack(maps, dim=1),
            }
            return {k: value.unflatten(0, (len(names), len(times))) for k, value in whole.items()}

        word = digest(slots.tokens.ids, slots.tokens.slots, slots.vectors)
        image = digest(posterior.mean, posterior.std)
        drawn_from = (times.tolist(), list(names), self.rows, self.noises, self.seed)
        return self.measures.arrays("sensitivity", compute, word, image, *drawn_from)

    def maps(
        self,
        arrays: Mapping[str, Tensor],
        image: int,
        times: Timesteps,
        inside: Float[Tensor, "h w"] | None,
        word: str = "",
    ) -> dict[str, WordMap]:
        """The maps of one image at all times, and its attention at the middle one, by column."""

        def drawn(values: Tensor, by_noise: Tensor | None = None) -> WordMap:
            if inside is None:
                return WordMap(values, word)
            ratio = float(in_region_ratio(values[None], inside[None])[0])
            if by_noise is None or self.noises < 2:
                return WordMap(values, word, ratio)
            every = in_region_ratio(by_noise, inside.expand(self.noises, -1, -1)).double()
            return WordMap(values, word, ratio, float(every.std()) / self.noises**0.5)

        middle = len(times) // 2
        columns = {
            f"SSM, t = {int(t)}": drawn(arrays["maps"][image, k], arrays["each"][image, k])
            for k, t in enumerate(times)
        }
        attention = drawn(arrays["attention"][image, middle])
        return {**columns, f"attention, t = {int(times[middle])}": attention}


def folder_maps(
    probe: Probe,
    slots: Slots,
    concepts: Mapping[str, Concept],
    times: Timesteps,
    images: int,
    title: str,
) -> Drawing:
    """Maps of one word on the first ``images`` of every folder, beside its attention.

    R is told where a folder has masks.
    """
    rows, errors, model = [], {}, probe.measures.model
    for folder, concept in concepts.items():
        few, names = concept.images[:images], concept.image_names[:images]
        arrays = probe.arrays(slots, posterior_of(model, few), names, times)
        errors[folder] = float(arrays["error"].mean() / arrays["maps"].mean().clamp(min=1e-12))
        masks = None
        if concept.masks is not None:
            masks = latent_mask(concept.masks[:images], model.factor)[:, 0]
        for i, name in enumerate(names):
            inside = None if masks is None else masks[i]
            maps = probe.maps(arrays, i, times, inside)
            rows.append(MapRow(f"{folder}, {name}", few[i], maps, inside))
    return maps_drawing(
        f"Semantic sensitivity of {title}, {probe.about}", rows, relative_standard_error=errors
    )


def _probe(bench: Bench) -> Probe:
    return Probe(bench.measures, bench.scope.rows, bench.scope.seed, bench.scope.noises)


def _first(bench: Bench, concept: Concept) -> Posterior:
    """The posterior of a concept's first image."""
    whole = bench.posterior(concept)
    return Posterior(whole.mean[:1], whole.std[:1])


def _described(bench: Bench) -> list[tuple[str, Concept, str, tuple[str, str, str]]]:
    """(label, image, prompt, the three words that are asked for) of figure 2's lines.

    Of the built-in world scenes with their colour and background; of other data the first image of
    each concept, described by a prompt of ``--sampling.prompts`` with {} for the class word.
    """
    lines = []
    if bench.procedural:
        for index in range(min(SCENES_SHOWN, bench.scope.images)):
            scene = scene_at(SCENES, index)
            noun, phrase = scene.spec.shape, BACKGROUND_PHRASES[scene.background]
            prompt = f"a photo of a {scene.spec.color} {noun} {phrase}"
            concept = scene_group([index], bench.model.image_size, noun)
            lines.append((f"scene {index + 1}", concept, prompt, (START, noun, phrase.split()[-1])))
        return lines
    own = [text for text in bench.lab.settings.sampling.prompts if "{}" in text]
    template = own[0] if own else PROMPT
    beside = template.replace("{}", "").split()
    if not beside:
        raise UserError(
            f"figure 2 shows a word beside the object's; the prompt {template!r} has none"
        )
    for concept in bench.concepts[:SCENES_SHOWN]:
        words = (START, concept.class_word.split()[-1], beside[-1])
        lines.append((concept.name, concept, fill(template, concept.class_word), words))
    return lines


def words(bench: Bench, figure: Figure) -> Drawing:
    """Figure 2: attention and sensitivity of the start token and of two words, t = T / 2."""
    time, probe = torch.tensor([bench.model.process.steps // 2]), _probe(bench)
    rows, prompts = [], {}
    for label, concept, prompt, words in _described(bench):
        inside, first = bench.masks(concept)[0], _first(bench, concept)
        name = f"scene/{int(concept.image_names[0])}" if bench.procedural else concept.name
        attention, sensitivity = {}, {}
        for column, word in zip(COLUMNS, words, strict=True):
            arrays = probe.arrays(word_slots(bench.model, prompt, word), first, [name], time)
            acts, attends = probe.maps(arrays, 0, time, inside, word).values()
            attention[f"attention, {column}"], sensitivity[f"SSM, {column}"] = attends, acts
        rows.append(MapRow(label, concept.images[0], {**attention, **sensitivity}, inside))
        prompts[label] = prompt
    title = (
        f"Cross-attention and semantic sensitivity of words, t = {int(time)}, {probe.about}; "
        "outline: the object, R: the share inside"
    )
    return maps_drawing(title, rows, prompts=prompts)


def before_and_after(bench: Bench, figure: Figure) -> Drawing:
    """Figures 3 and 9: maps of the learned word on one image, clean and poisoned.

    The prompt says where the first image shows the object, as far as that is known.
    """
    (concept,) = figure.concepts(bench)
    probe, at = _probe(bench), bench.scope.at
    at = bench.lab.settings.training.steps // 10 if at is None else at
    runs = [bench.run(concept, each) for each in figure.data(bench)]
    histories = bench.histories(runs, [0, at])
    times = torch.tensor([round(share * bench.model.process.steps) for share in TIMES])
    inside, rows = bench.masks(concept)[0], []
    backgrounds = {each.name: each.scenes[0].background for each in novel_concepts()}
    prompt = PROMPT
    if concept.name in backgrounds:
        prompt += f" {BACKGROUND_PHRASES[backgrounds[concept.name]]}"
    text = prompt.replace("{}", concept.placeholder)
    for step in (0, at):
        for run in runs:
            images = bench.poisoned(concept, run.poison)
            slots = word_slots(bench.model, text, concept.placeholder, histories[run].at(step))
            name = [f"{concept.name}/{concept.image_names[0]}"]
            arrays = probe.arrays(slots, _first(bench, images), name, times)
            maps = probe.maps(arrays, 0, times, inside)
            rows.append(MapRow(f"{run.poison}, {step} steps", images.images[0], maps, inside))
    area = float(inside.mean())
    title = (
        f"Semantic sensitivity of the learned word, {concept.name}, "
        f"“{prompt.replace('{}', 'R*')}”, {probe.about}; outline: the object, R: the share inside; "
        f"a map alike everywhere has R = {area:.2f}"
    )
    return maps_drawing(title, rows, area=area)
