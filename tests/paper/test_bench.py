"""What is kept between commands: arrays, histories, drawings that can be told apart."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.lab.bench import Bench, Measures
from safezone.lab.lab import UNSCORED, Lab
from safezone.lab.run import TEXTUAL_INVERSION, Grid
from safezone.lab.schedule import make, run_grid
from safezone.lab.settings import BenchScope, Cells, Poisoning, Sampling, Settings
from safezone.lab.stage import job
from safezone.lab.training import Training
from safezone.models import Model
from safezone.paper.measured.maps import words
from safezone.paper.measured.table import figure
from safezone.personalize import read_adapter
from safezone.results.drawings.panels import Panel, Series, draw_panels
from safezone.results.drawings.style import LOOKS, Drawing, save, stroke
from safezone.scores import Encoders
from small_lab import MeanColour

SETTINGS = Settings(
    model="tiny",
    poisoning=Poisoning(steps=1),
    training=Training(steps=10, batch_size=1, learning_rate=1e-2, checkpoint_every=1),
    sampling=Sampling(("a {}",), steps=1),
    cells=Cells(poison_seed=0),
)


@pytest.fixture
def make_bench(tmp_path: Path, tiny_model: Model) -> Callable[[str], Bench]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    concept = Concept(name="One", class_word="toy", images=images, image_names=("a", "b"))

    def opened(name: str) -> Bench:
        folder = tmp_path / name
        lab = Lab(folder, tiny_model, UNSCORED, SETTINGS, {"One": concept})
        return Bench(lab, BenchScope(), False, False, print)

    return opened


def test_histories_are_those_of_the_labs_own_trainings(
    make_bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench("figure")
    runs = [bench.run(bench.concepts[0], data) for data in ("clean", "adm+")]
    histories = bench.histories(runs, [0, 2, 10])
    for run, history in histories.items():
        assert history.steps.tolist() == list(range(11))
        assert history.vectors.shape == (11, 1, 32)
        assert not torch.equal(history.at(0), history.at(10))
        made = job(bench.lab, run).of["personalize"]
        assert torch.equal(read_adapter(made.place).vectors, history.at(10))

    def refused(*arguments: object, **named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("safezone.lab.trainings.train", refused)
    claim = make_bench("figure")  # another process in the same folder
    assert make(claim.lab, Grid("claim", tuple(runs)), last="personalize", progress=False) == {}
    assert torch.equal(claim.histories(runs, [3])[runs[1]].at(3), histories[runs[1]].at(3))


def test_a_single_step_needs_no_more_than_a_grids_short_training(
    make_bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shared = make_bench("own"), make_bench("shared")
    runs = [own.run(own.concepts[0], data) for data in ("clean", "adm+")]
    whole = own.histories(runs, [0, 2, 10])
    short = [replace(run, method=f"{TEXTUAL_INVERSION}; steps=1k") for run in runs]
    encoders = Encoders({"instance": MeanColour()}, "mean colour")
    run_grid(replace(shared.lab, encoders=encoders), Grid("short", tuple(short)), progress=False)

    def refused(*arguments: object, **named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("safezone.lab.trainings.train", refused)
    histories = shared.histories(runs, [0, 2])
    for run, history in histories.items():
        for step in (0, 2):
            torch.testing.assert_close(history.at(step), whole[run].at(step))
    with pytest.raises(AssertionError, match="trained again"):
        shared.histories(runs, [3])
    with pytest.raises(UserError, match="10 steps"):
        shared.histories(runs, [100000])


@pytest.mark.parametrize(
    ("steps", "paper", "expected"),
    [
        (5000, (100, 500, 900), [100, 500, 900]),
        (5000, (1000, 2000, 3000, 4000, 5000), [1000, 2000, 3000, 4000, 5000]),
        (203, (1000, 2000, 5000), [40, 80, 203]),
    ],
)
def test_figures_look_at_the_papers_steps_or_the_nearest_that_are_kept(
    make_bench: Callable[[str], Bench], steps: int, paper: tuple[int, ...], expected: list[int]
) -> None:
    bench = make_bench("marks")
    settings = bench.lab.settings
    longer = replace(settings, training=replace(settings.training, steps=steps))
    bench = replace(bench, lab=replace(bench.lab, settings=longer))
    assert bench.marks(*paper) == expected
    assert replace(bench, scope=BenchScope(marks=(9, 3))).marks(*paper) == [3, 9]


def test_steps_that_are_not_kept_are_told_before_any_training(
    make_bench: Callable[[str], Bench],
) -> None:
    bench = make_bench("long")
    settings = bench.lab.settings
    longer = replace(settings, training=replace(settings.training, steps=200))
    bench = replace(bench, lab=replace(bench.lab, settings=longer))
    run = bench.run(bench.concepts[0], "clean")
    with pytest.raises(UserError, match=r"No vectors are kept of step 7.*every 4th"):
        bench.histories([run], [7, 8])
    assert not (bench.lab.folder / "personalize").exists()


def test_a_prompt_of_nothing_but_the_object_has_no_other_word(
    make_bench: Callable[[str], Bench],
) -> None:
    bench = make_bench("figure")
    alone = replace(SETTINGS, sampling=Sampling(("{}",), steps=1))
    with pytest.raises(UserError, match="figure 2 shows a word beside the object's"):
        words(replace(bench, lab=replace(bench.lab, settings=alone)), figure(2))


def test_arrays_are_measured_once_and_damage_is_told(tmp_path: Path, tiny_model: Model) -> None:
    measures, calls = Measures(tmp_path, tiny_model), []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.arange(3).expand(2, 3)}

    first, second = measures.arrays("label", compute, 1), measures.arrays("label", compute, 1)
    assert torch.equal(first["x"], second["x"])
    assert len(calls) == 1
    measures.arrays("label", compute, 2)
    measures.arrays("other", compute, 1)
    assert len(calls) == 3
    assert len(list((tmp_path / "measure").iterdir())) == 3
    (place,) = (tmp_path / "measure").glob("other-*/arrays.safetensors")
    place.write_bytes(place.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged"):
        measures.arrays("other", compute, 1)


def test_of_several_processes_one_measures(tmp_path: Path, tiny_model: Model) -> None:
    """The others wait for it: here the second asks while the first is at it."""
    calls: list[int] = []

    def slow() -> dict[str, torch.Tensor]:
        calls.append(1)
        time.sleep(0.3)
        return {"x": torch.ones(2)}

    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(Measures(tmp_path, tiny_model).arrays, "label", slow, 1) for _ in range(2)
        ]
        assert all(torch.equal(each.result()["x"], torch.ones(2)) for each in asked)
    assert len(calls) == 1


def test_series_differ_without_colour_and_files_are_the_same_bytes(tmp_path: Path) -> None:
    looks = [stroke(i) for i in range(LOOKS)]
    for feature in ("color", "marker", "hatch", "dash"):
        assert len({str(getattr(look, feature)) for look in looks}) == LOOKS
    x = torch.arange(4).double()

    def drawing() -> Drawing:
        series = [Series(f"s{i}", x, x * i) for i in range(3)]
        return Drawing(draw_panels("t", [[Panel("p", series, "x", "y")]]), {"nan": float("nan")})

    first = [path.read_bytes() for path in save(drawing(), tmp_path / "a", "f")]
    assert first == [path.read_bytes() for path in save(drawing(), tmp_path / "b", "f")]
    assert json.loads(first[2]) == {"nan": None}


@pytest.mark.parametrize("wrong", [{"rows": 1}, {"draws": 0}, {"poisons": ("clean",)}])
def test_scopes_that_cannot_be_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError):
        BenchScope(**wrong)  # type: ignore[arg-type]
