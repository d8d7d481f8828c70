"""Figures 2, 3 and 9: where in the image a word acts, before and during training."""

from typing import Final

import torch

from safezone.analysis.sensitivity import START, word_slots
from safezone.concepts import Concept
from safezone.lab.bench import Bench
from safezone.miniworld import BACKGROUND_PHRASES, Scene, novel_concepts, scene_at
from safezone.models.base import Posterior
from safezone.paper.figure import Figure
from safezone.paper.measured.by_timestep import PROMPT
from safezone.paper.measured.probe import TIMES, Probe
from safezone.paper.measured.scenes import SCENES, scene_group
from safezone.results.drawings.maps import MapRow, maps_drawing
from safezone.results.drawings.style import Drawing

SCENES_SHOWN: Final = 3
"""Lines of figure 2."""
COLUMNS: Final = ("start token", "object", "other word")


def _probe(bench: Bench) -> Probe:
    return Probe(bench.measures, bench.scope.rows, bench.scope.seed, bench.scope.noises)


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
    other = template.replace("{}", "").split()[-1]
    for concept in bench.concepts[:SCENES_SHOWN]:
        words = (START, concept.class_word.split()[-1], other)
        lines.append((concept.name, concept, template.format(concept.class_word), words))
    return lines


def words(bench: Bench, figure: Figure) -> Drawing:
    """Figure 2: attention and sensitivity of the start token and of two words, t = T / 2."""
    time, probe, rows, prompts = (
        torch.tensor([bench.model.process.steps // 2]),
        _probe(bench),
        [],
        {},
    )
    for label, concept, prompt, words in _described(bench):
        inside, whole = bench.masks(concept)[0], bench.posterior(concept)
        first = Posterior(whole.mean[:1], whole.std[:1])
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


def _prompt(concept: Concept) -> str:
    """The learned word where the first image shows it, as far as that is known."""
    scenes: dict[str, Scene] = {each.name: each.scenes[0] for each in novel_concepts()}
    if concept.name in scenes:
        return f"{PROMPT} {BACKGROUND_PHRASES[scenes[concept.name].background]}"
    return PROMPT


def before_and_after(bench: Bench, figure: Figure) -> Drawing:
    """Figures 3 and 9: maps of the learned word on one image, clean and poisoned."""
    (concept,) = figure.concepts(bench)
    data, model, probe = figure.data(bench), bench.model, _probe(bench)
    at = bench.scope.at
    at = bench.lab.settings.training.steps // 10 if at is None else at
    runs = [bench.run(concept, each) for each in data]
    histories = bench.histories(runs, [0, at])
    times = torch.tensor([round(share * model.process.steps) for share in TIMES])
    inside = bench.masks(concept)[0]
    prompt, rows = _prompt(concept), []
    for step in (0, at):
        for run in runs:
            images = bench.poisoned(concept, run.poison)
            whole = bench.posterior(images)
            slots = word_slots(
                model,
                prompt.replace("{}", concept.placeholder),
                concept.placeholder,
                histories[run].at(step),
            )
            first = Posterior(whole.mean[:1], whole.std[:1])
            name = [f"{concept.name}/{concept.image_names[0]}"]
            maps = probe.maps(probe.arrays(slots, first, name, times), 0, times, inside)
            rows.append(MapRow(f"{run.poison}, {step} steps", images.images[0], maps, inside))
    area = float(inside.mean())
    title = (
        f"Semantic sensitivity of the learned word, {concept.name}, "
        f"“{prompt.replace('{}', 'R*')}”, {probe.about}; outline: the object, R: the share inside; "
        f"a map alike everywhere has R = {area:.2f}"
    )
    return maps_drawing(title, rows, area=area)
