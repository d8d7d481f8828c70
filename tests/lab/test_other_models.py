"""Poisons and purifiers on other models than the one that is personalized."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest

from safezone.commands.arguments import parse
from safezone.commands.command import Machine
from safezone.commands.grid_run import GridRunCommand, open_lab
from safezone.commands.opening import with_models
from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.lab.cost import count_passes
from safezone.lab.lab import Lab
from safezone.lab.presets import preset
from safezone.lab.run import Grid
from safezone.lab.schedule import make, run_grid
from safezone.lab.stage import STAGES, job
from safezone.models import Model, load_model
from safezone.models.known import hub_name
from safezone.paper.rows import PAPER
from safezone.reading import read_json
from safezone.scores import read_rows
from small_lab import concept, grid
from tiny import write_tiny_folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_tiny_folder(tmp_path_factory.mktemp("models") / "other", seed=7))


def _changed(lab: Lab, changed: Lab, poison: str = "adm+", defense: str = "regen") -> list[str]:
    """The stages whose keys differ."""
    run = replace(grid(lab).runs[0], poison=poison, defense=defense)
    ours, theirs = job(lab, run).of, job(changed, run).of
    return [s.name for s in STAGES if s.settings and ours[s.name].key != theirs[s.name].key]


def test_the_weights_of_what_poisons_and_purifies_are_in_the_keys(lab: Lab, other: Model) -> None:
    later = ["personalize", "generate", "score"]
    poisoned = replace(lab, poisoners=(other,))
    assert _changed(lab, poisoned) == ["poison", "preprocess", *later]
    assert _changed(lab, poisoned, poison="clean") == []
    purified = replace(lab, purifier=other)
    assert _changed(lab, purified) == ["preprocess", *later]
    assert _changed(lab, purified, defense="jpeg") == []
    # the model itself by name is white box; order and number of an ensemble count
    assert _changed(lab, replace(lab, poisoners=(lab.model,))) == []
    both = replace(lab, poisoners=(lab.model, other))
    assert _changed(poisoned, both) == _changed(lab, both) == ["poison", "preprocess", *later]


def test_poisons_of_another_model_are_carried_over(lab: Lab, other: Model, tmp_path: Path) -> None:
    """The same bytes as that model makes for itself, met by another."""
    run = replace(grid(lab).runs[0], poison="adm+", defense="nominal")
    own = replace(lab, folder=tmp_path / "own", model=other)
    carried = replace(lab, folder=tmp_path / "carried", poisoners=(other,))
    box = replace(lab, folder=tmp_path / "box")
    images = []
    for each in (own, carried, box):
        assert not make(each, Grid("one", (run,)), last="poison")
        place = job(each, run).of["poison"].place
        images.append(
            (each.load(job(each, run).of["poison"]).images, read_json(place / "manifest.json"))
        )
    assert not make(carried, Grid("one", (run, replace(run, poison="clean"))))
    rows = {
        each.poison: read_rows(job(carried, each).of["score"].place / "rows.jsonl")
        for each in (run, replace(run, poison="clean"))
    }
    assert {row.poison_model for row in rows["adm+"]} == {other.name}
    assert {row.poison_model for row in rows["clean"]} == {""}
    assert (images[0][0] == images[1][0]).all()
    assert not (images[1][0] == images[2][0]).all()
    assert images[1][1]["model"] == other.name != images[2][1]["model"]


def test_a_poison_is_made_at_the_size_of_its_model(lab: Lab, tmp_path: Path) -> None:
    """Larger or smaller than the model that meets it: the images are resized in between."""

    def concepts(size: int) -> Sequence[Concept]:
        assert size == 32
        large = [concept(name, i) for i, name in enumerate(("One", "Two"))]
        return [
            replace(c, images=c.images[..., ::2, ::2], masks=c.masks[..., ::2, ::2])  # type: ignore[index]
            for c in large
        ]

    small = copy(lab.model)
    small.image_size = 32
    settings = replace(lab.settings, model="large", poison_model=("large", "small"))
    named = replace(lab, folder=tmp_path, settings=settings)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("safezone.commands.opening.open_model", lambda name, machine, *_: small)
        with pytest.raises(UserError, match="differ in image size"):
            with_models(named, Machine(), concepts)
        settings = replace(settings, poison_model=("small",), purify_model="small")
        carried = with_models(replace(named, settings=settings), Machine(), concepts)
    assert carried.poisoners == (carried.purifier,) == (small,)
    run = replace(grid(lab).runs[0], poison="adm+", defense="nominal")
    results = run_grid(carried, Grid("one", (run,)), progress=False)
    assert not results.failed
    place = job(carried, run).of["poison"].place
    assert read_json(place / "manifest.json")["image_size"] == 32
    assert carried.load(job(carried, run).of["poison"]).images.shape[-1] == 64


@pytest.mark.parametrize("name", [row.name for row in PAPER.values() if row.model != "sd15"])
def test_the_tables_of_other_models_carry_their_poisons_over(name: str) -> None:
    """Appendix O: made on SD 1.5; the model itself makes them where it is named."""
    if PAPER[name].model != "sdxl":
        twin = parse(GridRunCommand, [name, "--model", "mini"])
        assert (twin.poison_model, twin.purify_model) == (("mini",), "mini")
        white = parse(GridRunCommand, [name, "--model", "mini", "--poison-model", "mini-rf"])
        assert white.poison_model == ("mini-rf",)
    real = parse(GridRunCommand, [name, "--model", "sd15"])
    assert (real.poison_model, real.purify_model) == ((hub_name("sd15"),), hub_name("sd15"))


def test_steps_belong_to_the_data_set_too() -> None:
    """Textual inversion on CustomConcept101 has 2,500 steps, on the other data set 5,000."""
    long = {name for name, row in PAPER.items() if row.dataset == "CustomConcept101"}
    assert long == {"table1", "table15", "table16", "figure17", "figure18", "figure19"}
    for name in ("table17", *long):
        options = parse(GridRunCommand, [name, "--model", "sd15"])
        assert options.training.steps == (2500 if name in long else 5000)
        assert parse(GridRunCommand, [name, "--model", "mini"]).training == preset("mini").training
    assert parse(GridRunCommand, ["table1", "--model", "sd15", "--steps", "7"]).training.steps == 7


def test_a_real_model_draws_five_images_for_each_of_24_prompts() -> None:
    sampling = parse(GridRunCommand, ["table17", "--model", "sd15"]).sampling
    assert (len(sampling.texts()), sampling.images_per_prompt) == (24, 5)
    fewer = ["--sampling.prompts", "all25", "--sampling.images-per-prompt", "1"]
    sampling = parse(GridRunCommand, ["table17", "--model", "sd15", *fewer]).sampling
    assert (len(sampling.texts()), sampling.images_per_prompt) == (25, 1)


def test_other_tables_are_white_box() -> None:
    for name in ("table17", "table32", "figure8"):
        options = parse(GridRunCommand, [name, "--model", "sd15"])
        assert (options.poison_model, options.purify_model) == ((), None)


def test_the_cost_of_poisons_is_that_of_the_models_that_make_them(
    tiny_model: Model, other: Model
) -> None:
    one, two = count_passes(tiny_model), count_passes(tiny_model, (tiny_model, other))
    assert one.poison == (one.encode, one.predict)
    assert two.poison == (2 * one.encode, 2 * one.predict)
    assert min(two.poison) > 0


def test_workers_open_the_same_models(tiny_model_folder: Path, tmp_path: Path, lab: Lab) -> None:
    settings = replace(
        lab.settings,
        model=str(tiny_model_folder),
        poison_model=(str(tiny_model_folder),),
        scoring=preset("mini").scoring,
    )
    opened = open_lab(tmp_path, settings, None, Machine())
    assert opened.poisoners == (opened.model,)
    assert opened.purifier is None
