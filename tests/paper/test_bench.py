"""What is kept between commands: arrays, trajectories, drawings that can be told apart."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.files import digest, write_safetensors
from safezone.lab.bench import Bench, Scope
from safezone.lab.cache import Cache
from safezone.lab.lab import UNSCORED, Lab
from safezone.lab.run import TEXTUAL_INVERSION, Grid
from safezone.lab.schedule import run_grid
from safezone.lab.settings import Cells, Poisoning, Sampling, Settings
from safezone.lab.training import Training
from safezone.lab.trajectory import Cell, trajectories
from safezone.models import Model
from safezone.results.drawings.curves import Panel, Series, draw_panels
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

    def make(name: str) -> Bench:
        folder = tmp_path / name
        lab = Lab(folder, tiny_model, UNSCORED, SETTINGS, {"One": concept})
        return Bench(lab, Cache(folder / "analysis"), Scope(), False, False, print)

    return make


def test_a_killed_training_goes_on_to_the_same_marks(
    make_bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cells(bench: Bench) -> list[Cell]:
        return [Cell(bench.concepts[0], "clean"), Cell(bench.concepts[0], "adm+")]

    whole = make_bench("whole")
    expected = trajectories(whole, cells(whole))

    def killed_at(step: int) -> Callable[[Path, Mapping[str, torch.Tensor]], None]:
        def writing(place: Path, arrays: Mapping[str, torch.Tensor]) -> None:
            if place.name == f"mark-{step}.safetensors":
                raise KeyboardInterrupt
            write_safetensors(place, arrays)

        return writing

    broken = make_bench("broken")
    for step in (4, 7):  # after its checkpoint and before its mark is written
        monkeypatch.setattr("safezone.lab.trajectory.write_safetensors", killed_at(step))
        with pytest.raises(KeyboardInterrupt):
            trajectories(broken, cells(broken))
    monkeypatch.undo()
    found = trajectories(broken, cells(broken))
    for label, each in expected.items():
        assert each.steps == list(range(11))
        assert each.vectors.shape == (11, 1, 32)
        assert torch.equal(each.vectors, found[label].vectors)
        assert not torch.equal(each.vectors[0], each.vectors[-1])
    assert not list((broken.lab.folder / "analysis").glob("training-*"))
    assert expected["One,clean,nominal"].nearest(4) == 4


def test_a_step_is_taken_from_a_grids_short_training(
    make_bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shared = make_bench("own"), make_bench("shared")
    cells = [Cell(own.concepts[0], "clean"), Cell(own.concepts[0], "adm+")]
    expected = trajectories(own, cells, at=2)
    runs = [
        replace(shared.run(c.concept, c.data), method=f"{TEXTUAL_INVERSION}; steps=1k")
        for c in cells
    ]
    encoders = Encoders({"instance": MeanColour()}, "mean colour")
    run_grid(replace(shared.lab, encoders=encoders), Grid("short", tuple(runs)), progress=False)

    def refused(*arguments: object, **named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("safezone.lab.trajectory.train", refused)
    found = trajectories(shared, cells, at=2)
    for label, each in found.items():
        assert each.steps == [0, 2]
        whole = expected[label]
        for place, step in enumerate(each.steps):
            torch.testing.assert_close(each.vectors[place], whole.vectors[whole.nearest(step)])
    with pytest.raises(AssertionError, match="trained again"):
        trajectories(shared, cells, at=3)
    with pytest.raises(UserError, match="10 steps"):
        trajectories(shared, cells, at=100000)


def test_arrays_are_measured_once_and_damage_is_told(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.arange(3).expand(2, 3)}

    place = cache.place("label", "key", 1)
    assert place != cache.place("label", "key", 2)
    first, second = cache.arrays(place, compute), cache.arrays(place, compute)
    assert torch.equal(first["x"], second["x"]) and len(calls) == 1
    place.write_bytes(place.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged"):
        cache.arrays(place, compute)
    assert digest(torch.zeros(2)) != digest(torch.zeros(2, 1)) != digest(torch.ones(2))


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
        Scope(**wrong)  # type: ignore[arg-type]
