"""Properties of the procedural world: determinism, exact masks, closed vocabulary, held-out
concepts and visible objects."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from safezone.miniworld import (
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    COLORS,
    DAMAGES,
    EXTRAS,
    NAMED_OBJECTS,
    PATTERNS,
    SHAPES,
    SIZE,
    TEXTURE_VOCABULARY,
    TEXTURES,
    VOCABULARY,
    Example,
    Extra,
    NovelConcept,
    ObjectSpec,
    Pose,
    Rendered,
    Scene,
    Texture,
    caption,
    development_concepts,
    example_at,
    full_caption,
    instance_pair,
    named_object,
    names,
    novel_concepts,
    render,
    sample_object,
    sample_scene,
    scene_at,
    texture_names,
)

CONCEPTS = novel_concepts()
DEVELOPMENT = development_concepts()


def scene_of(spec: ObjectSpec, background: str = "grass", scale: float = 0.6) -> Scene:
    return Scene(spec, background, Pose(scale, 10.0, 0.5, 0.5, False), light=250.0, seed=1)


def with_extras(spec: ObjectSpec, **extras: Any) -> ObjectSpec:
    return replace(spec, **extras)


def dressed(shape: str) -> ObjectSpec:
    extras = {name: Extra(kinds[0], "green") for name, kinds in EXTRAS.items()}
    return with_extras(ObjectSpec(shape, "red"), **extras)


def random_scenes(count: int) -> Iterator[Scene]:
    return (scene_at(3, index) for index in range(count))


def assert_mask_fits(rendered: Rendered) -> None:
    mask = rendered.mask
    assert set(np.unique(mask)) == {0, 255}
    border = np.concatenate([mask[:2].ravel(), mask[-2:].ravel(), mask[:, :2].ravel()])
    assert not border.any()
    assert not mask[:, -2:].any()
    assert 0.05 <= (mask > 0).mean() <= 0.6


@pytest.mark.parametrize("index", range(5))
def test_the_same_scene_gives_the_same_example(index: int) -> None:
    first, second = render(scene_at(7, index)), render(scene_at(7, index))
    assert first.scene == second.scene
    assert first.caption == second.caption
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_seeds_give_disjoint_datasets() -> None:
    assert not {scene_at(0, i) for i in range(200)} & {scene_at(1, i) for i in range(200)}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_takes_every_pattern(shape: str, pattern: str) -> None:
    spec = ObjectSpec(shape, "red", pattern, None if pattern == "plain" else "white")
    rendered = render(scene_of(spec))
    assert rendered.image.shape == (SIZE, SIZE, 3)
    assert rendered.image.dtype == np.uint8
    if pattern != "plain":
        plain = render(scene_of(ObjectSpec(shape, "red")))
        inside = rendered.mask > 0
        change = np.abs(rendered.image.astype(int) - plain.image.astype(int)).max(axis=-1)
        assert (change[inside] > 60).mean() > 0.08
        np.testing.assert_array_equal(rendered.mask, plain.mask)


@pytest.mark.parametrize("scale", [0.48, 0.78])
@pytest.mark.parametrize("shape", SHAPES)
def test_masks_fit_in_the_frame(shape: str, scale: float) -> None:
    for spec in (ObjectSpec(shape, "red"), dressed(shape)):
        rendered = render(scene_of(spec, scale=scale))
        assert_mask_fits(rendered)
        rows, columns = np.nonzero(rendered.mask)
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        assert extent == pytest.approx(scale * SIZE, abs=4)


def test_masks_of_random_scenes_fit_in_the_frame() -> None:
    for scene in random_scenes(80):
        assert_mask_fits(render(scene))


def test_outside_the_mask_only_shadow_and_edge_change() -> None:
    """Two objects of one silhouette leave the same ground, up to the antialiased edge."""
    for shape in SHAPES:
        red, blue = (render(scene_of(ObjectSpec(shape, color))) for color in ("red", "blue"))
        near = Image.fromarray(red.mask).filter(ImageFilter.MaxFilter(5))
        outside = np.asarray(near) == 0
        np.testing.assert_array_equal(red.image[outside], blue.image[outside])
        inside = np.asarray(Image.fromarray(red.mask).filter(ImageFilter.MinFilter(3))) > 0
        assert (red.image[inside] != blue.image[inside]).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("name", ["hat", "ears"])
@pytest.mark.parametrize("shape", SHAPES)
def test_hat_and_ears_are_part_of_the_mask(shape: str, name: str) -> None:
    extra = Extra(EXTRAS[name][0], "blue")
    spec = with_extras(ObjectSpec(shape, "red"), **{name: extra})
    other = with_extras(spec, **{name: Extra(extra.kind, "yellow")})
    first, second = render(scene_of(spec)), render(scene_of(other))
    change = np.abs(first.image.astype(int) - second.image.astype(int)).max(axis=-1) > 60
    assert change.sum() > 40
    assert (first.mask[change] > 0).mean() > 0.97


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("color", COLORS)
def test_object_is_visible(color: str, background: str) -> None:
    """The rim or what it encloses differs from the ground next to it."""
    rendered = render(scene_of(ObjectSpec("ball", color), background))
    mask = Image.fromarray(rendered.mask)
    rim, inner = (np.asarray(mask.filter(ImageFilter.MinFilter(width))) > 0 for width in (3, 9))
    near = np.asarray(mask.filter(ImageFilter.MaxFilter(7))) > 0
    ground = rendered.image[near & (rendered.mask == 0)].mean(axis=0)
    bands = ((rendered.mask > 0) & ~rim, rim & ~inner)
    contrasts = [np.abs(rendered.image[band].mean(axis=0) - ground).max() for band in bands]
    assert max(contrasts) > 25


def test_captions_use_the_vocabulary_only() -> None:
    used: set[str] = set()
    for index, scene in enumerate(random_scenes(2500)):
        text = caption(scene, np.random.default_rng(index))
        assert scene.spec.shape in text.split()
        assert " a orange" not in f" {text}"
        used.update(text.split(), full_caption(scene).split())
    assert used == set(VOCABULARY)


def test_captions_name_most_of_what_they_can() -> None:
    scenes = list(random_scenes(1000))
    captions = [caption(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    pairs = list(zip(scenes, captions, strict=True))
    colored = np.mean([scene.spec.color in text.split() for scene, text in pairs])
    placed = np.mean([text.endswith(BACKGROUND_PHRASES[s.background]) for s, text in pairs])
    patterned = np.mean([s.spec.pattern in text for s, text in pairs if s.spec.pattern != "plain"])
    assert colored == pytest.approx(0.9, abs=0.05)
    assert placed == pytest.approx(0.75, abs=0.05)
    assert patterned == pytest.approx(0.75, abs=0.05)


def test_extras_are_in_about_a_third_of_the_scenes() -> None:
    share = np.mean([bool(scene.spec.extras) for scene in random_scenes(1000)])
    assert share == pytest.approx(0.35, abs=0.05)


def test_novel_and_development_concepts_are_never_sampled() -> None:
    novel = {each.spec.combination for each in (*CONCEPTS, *DEVELOPMENT)}
    assert len(novel) == 16
    rng = np.random.default_rng(0)
    assert not novel & {sample_object(rng).combination for _ in range(6_000)}


def parts_named(text: str) -> set[str]:
    """The parts that a caption names, found by words that stand for nothing else."""
    words = set(text.split())
    signs = {
        "emblem": "it" in words,
        "hat": "hat" in words,
        "ears": "ears" in words,
        "tone": "half" in words,
    }
    return {part for part, named in signs.items() if named}


def test_captions_name_exactly_the_parts_that_are_there() -> None:
    bare = 0
    for index, scene in enumerate(random_scenes(1000)):
        spec, text = scene.spec, full_caption(scene)
        assert parts_named(text) == spec.extras
        for part in spec.extras:
            extra = getattr(spec, part)
            assert extra.color in text.split()
            assert ({"cone": "party"}.get(extra.kind, extra.kind)) in text.split()
        short = caption(scene, np.random.default_rng(index))
        assert parts_named(short) <= spec.extras
        bare += bool(spec.extras) and not parts_named(short)
    assert bare > 20  # of 350: a quarter of the parts is left out


def test_a_name_stands_for_one_object_that_is_no_concept() -> None:
    words = names()
    assert len(set(words)) == len(words) == NAMED_OBJECTS == 3000
    assert not set(words) & {*VOCABULARY, *TEXTURE_VOCABULARY, *texture_names()}
    concepts = {each.spec.combination for each in (*CONCEPTS, *DEVELOPMENT)}
    assert not concepts & {named_object(number).combination for number in range(NAMED_OBJECTS)}
    assert named_object(7) == named_object(7)


def test_three_of_five_captions_of_a_named_object_say_its_name_and_not_its_looks() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, named_object(0))
    texts = [caption(scene, rng, "zorup") for _ in range(1000)]
    with_name = [text.split() for text in texts if "zorup" in text.split()]
    assert len(with_name) / 1000 == pytest.approx(0.6, abs=0.05)
    assert not any(scene.spec.color in words for words in with_name)
    with_noun = np.mean([scene.spec.shape in words for words in with_name])
    assert with_noun == pytest.approx(0.25, abs=0.06)


def test_the_corpus_has_names_textures_and_damage_and_is_that_of_its_seed() -> None:
    examples = [example_at(5, index) for index in range(3000)]
    textures = [e for e in examples if isinstance(e.subject, Texture)]
    scenes = [e for e in examples if isinstance(e.subject, Scene)]
    assert len(textures) / 3000 == pytest.approx(1 / 12, abs=0.02)
    assert np.mean([e.damage is not None for e in examples]) == pytest.approx(1 / 12, abs=0.02)
    assert np.mean([e.name is not None for e in scenes]) == pytest.approx(0.6, abs=0.04)
    assert {e.damage[0] for e in examples if e.damage} == set(DAMAGES)
    assert example_at(5, 9) == examples[9]
    np.testing.assert_array_equal(examples[9].paint(), example_at(5, 9).paint())
    used = {
        word
        for index, example in enumerate(examples)
        for word in example.caption(np.random.default_rng(index)).split()
    }
    known = {*VOCABULARY, *TEXTURE_VOCABULARY, *names(), *texture_names()}
    assert used <= known
    assert set(TEXTURE_VOCABULARY) <= used


@pytest.mark.parametrize("kind", TEXTURES)
def test_a_texture_shows_its_two_colors(kind: str) -> None:
    pixels = Example(Texture(kind, "red", "blue", 12.0, 30.0), seed=3).paint()
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    redder = pixels[..., 0].astype(int) - pixels[..., 2]
    assert (redder > 60).mean() > 0.05
    assert (redder < -60).mean() > 0.05


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_grows_with_its_strength(damage: str) -> None:
    scene = scene_at(3, 0)
    clean = Example(scene, seed=1).paint().astype(int)
    light, heavy = (
        np.abs(Example(scene, 1, None, (damage, strength)).paint() - clean).mean()
        for strength in (0.1, 0.9)
    )
    assert 0 < light < heavy


def test_there_are_ten_novel_concepts() -> None:
    assert len({concept.name for concept in CONCEPTS}) == 10
    assert len({concept.spec.combination for concept in CONCEPTS}) == 10
    assert sum(not concept.spec.extras for concept in CONCEPTS) == 2
    assert novel_concepts() == CONCEPTS


@pytest.mark.parametrize("concept", (*CONCEPTS, *DEVELOPMENT), ids=lambda concept: concept.name)
def test_a_novel_concept_is_one_object_in_five_places(concept: NovelConcept) -> None:
    assert concept.class_word == concept.spec.shape
    assert {scene.spec for scene in concept.scenes} == {concept.spec}
    assert len({scene.background for scene in concept.scenes}) == 5
    for scene in concept.scenes:
        assert_mask_fits(render(scene))


def test_a_pair_is_one_object_in_two_places() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = instance_pair(rng)
        assert first.spec == second.spec
        assert first.background != second.background
        assert first.pose != second.pose


def test_sample_scene_keeps_what_it_is_given() -> None:
    spec = dressed("mug")
    scene = sample_scene(np.random.default_rng(0), spec, "snow")
    assert (scene.spec, scene.background) == (spec, "snow")


def test_a_pattern_needs_a_second_color() -> None:
    with pytest.raises(ValueError, match="second colour"):
        ObjectSpec("mug", "red", "striped")


@pytest.mark.parametrize("arguments", [["--seed", "1", "--count", "9"], ["--concepts"]])
def test_contact_sheet(tmp_path: Path, arguments: list[str]) -> None:
    out = tmp_path / "sheet.png"
    subprocess.run([sys.executable, "-m", "safezone.miniworld", str(out), *arguments], check=True)
    with Image.open(out) as sheet:
        assert sheet.width % SIZE == sheet.height % SIZE == 0
