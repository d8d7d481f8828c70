"""Processes that share a workspace do not harm each other, and make what they share once."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from safezone.commands.grid_run import dry
from safezone.errors import UserError
from safezone.files import locked, write_json
from safezone.lab.cost import Passes
from safezone.lab.lab import TRAINING_FOLDER, Lab
from safezone.lab.run import Grid
from safezone.lab.schedule import make, run_grid
from safezone.lab.stage import job
from safezone.lab.store import MAKING, WORK, in_turn, turn
from safezone.lab.trainings import MEMBERS, member
from safezone.models import Model
from safezone.models.pixel import load_pixel_model
from safezone.results.folder import LEAD, RESULT_LOCK, measure
from safezone.scores import Row, read_rows
from small_lab import grid, small_lab


def test_a_turn_is_one_process_s_until_it_ends(tmp_path: Path) -> None:
    place = tmp_path / "artifact"
    with turn(place) as ours, turn(place) as theirs:
        assert ours
        assert not theirs
    with turn(place, wait=True) as ours:
        assert ours
    assert not list(tmp_path.iterdir())


def test_what_another_process_makes_comes_last_and_is_waited_for(tmp_path: Path) -> None:
    places = [tmp_path / name for name in "abc"]
    process = os.fork()
    if process == 0:
        with turn(places[0]):
            (tmp_path / "held").touch()
            time.sleep(0.5)
            (tmp_path / "let go").touch()
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    order = []
    for place in in_turn(places):
        if place == places[0]:
            assert (tmp_path / "let go").exists()
        order.append(place)
    os.waitpid(process, 0)
    assert order == [places[1], places[2], places[0]]
    assert not list(tmp_path.glob(f"{MAKING}*"))


def test_the_rest_is_brought_to_its_end_while_another_process_is_at_a_poison(
    tmp_path: Path, tiny_model: Model
) -> None:
    lab = replace(small_lab(tmp_path / "work", tiny_model), sharers=2)
    training = replace(lab.settings.training, runs_per_pass=None)
    lab = replace(lab, settings=replace(lab.settings, training=training))
    all_jobs = [job(lab, run) for run in grid(lab)]
    held = next(j for j in all_jobs if j.run.poison != "clean").of["poison"].place
    others = [j.of["score"] for j in all_jobs if j.of["poison"].place != held]
    assert len(others) == 6 and len(all_jobs) == 8
    held.parent.mkdir(parents=True)
    process = os.fork()
    if process == 0:
        with turn(held):
            (tmp_path / "held").touch()
            end = time.monotonic() + 300
            while not all(each.done for each in others) and time.monotonic() < end:
                time.sleep(0.05)
        os._exit(0 if all(each.done for each in others) else 1)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    notes: list[str] = []
    assert make(lab, grid(lab), note=notes.append) == {}
    assert os.waitpid(process, 0)[1] == 0
    assert all(each.of["score"].done for each in all_jobs)
    assert [note for note in notes if note.startswith("poison")] == ["poison: 2 of 2 made"]
    # The first pass trains this process's share of all eight, not of the six that could begin.
    trained = [note.partition(" runs")[0] for note in notes if "trained" in note]
    assert trained == ["4 of 6", "6 of 6", "2 of 2"]


def _measure(workspace: Path, model: Model, runs: Grid) -> None:
    measure(
        small_lab(workspace / WORK, model),
        runs,
        workspace,
        workspace / runs.name,
        title="t",
        command="c",
        progress=False,
    )


def _values(rows: list[Row]) -> dict[tuple[str, ...], float]:
    return {
        (r.concept, r.poison, r.defense, str(r.seed), r.metric): r.value
        for r in rows
        if r.value == r.value
    }


def test_an_earlier_verdict_is_not_of_a_new_measurement(tmp_path: Path, tiny_model: Model) -> None:
    runs = grid(small_lab(tmp_path / WORK, tiny_model), ("clean",))
    (tmp_path / runs.name).mkdir()
    (tmp_path / runs.name / LEAD).write_text("<p>It holds.</p>")
    _measure(tmp_path, tiny_model, runs)
    assert "It holds." not in (tmp_path / runs.name / "report.html").read_text()


@pytest.mark.slow
def test_two_grids_at_a_time_in_one_workspace_give_the_rows_of_each_alone(
    tmp_path: Path, lab: Lab, tiny_model: Model
) -> None:
    whole = grid(lab, seeds=2)
    grids = [
        replace(whole, name="one", runs=tuple(r for r in whole if r.seed == 0)),
        replace(whole, name="two", runs=tuple(r for r in whole if r.defense == "szt")),
    ]
    alone = _values(run_grid(lab, whole, progress=False).rows)
    shared = tmp_path / "shared"
    processes = []
    for runs in grids:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                _measure(shared, tiny_model, runs)
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    for runs in grids:
        found = _values(read_rows(shared / runs.name / "rows.jsonl"))
        assert found.keys() == {
            key for key in alone if any(key[:4] == (*_cell(run),) for run in runs)
        }
        assert found == pytest.approx({key: alone[key] for key in found}, abs=1e-4)
    left = [path for path in (shared / WORK).rglob(".*") if path.name != ".lock"]
    assert not left
    assert not list((shared / WORK / "training").iterdir())


def _cell(run: object) -> tuple[str, ...]:
    return tuple(str(getattr(run, name)) for name in ("concept", "poison", "defense", "seed"))


def test_what_a_process_killed_after_its_last_file_left_is_removed(lab: Lab) -> None:
    run_grid(lab, grid(lab), progress=False)
    (poisoned,) = (lab.folder / "poison").glob("One,adm+*")
    checkpoints = poisoned.with_name(f".unfinished-{poisoned.name}")
    checkpoints.mkdir()
    adapters = [job(lab, run).of["personalize"] for run in grid(lab)]
    left = lab.folder / TRAINING_FOLDER / "0123456789abcdef"
    (left / "logs").mkdir(parents=True)
    (left / "checkpoint.safetensors").write_bytes(b"left")
    write_json(left / MEMBERS, {"members": [member(a, left.parent) for a in adapters]})
    lock = lab.folder / TRAINING_FOLDER / f"{MAKING}00000000aaaaaaaa"
    lock.touch()
    emptied = (
        lab.folder / TRAINING_FOLDER / "11111111aaaaaaaa"
    )  # killed between the list and the folder
    emptied.mkdir()
    emptied.with_name(f"{MAKING}{emptied.name}").touch()
    foreign = lab.folder / TRAINING_FOLDER / "fedcba9876543210"
    foreign.mkdir()
    write_json(foreign / MEMBERS, {"members": ["of another grid"]})
    run_grid(lab, grid(lab), progress=False)
    assert not checkpoints.exists()
    assert not left.exists()
    assert not lock.exists()
    assert list((lab.folder / TRAINING_FOLDER).iterdir()) == [foreign]


def test_one_grid_is_run_by_one_process(tmp_path: Path, lab: Lab, tiny_model: Model) -> None:
    runs = grid(lab, ("clean",))
    with (
        locked(tmp_path / runs.name, file=RESULT_LOCK),
        pytest.raises(UserError, match="another process"),
    ):
        _measure(tmp_path, tiny_model, runs)


def test_a_defense_whose_network_is_missing_is_a_row_with_its_reason(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safezone.models.pixel.WEIGHTS", tmp_path / "nothing")
    load_pixel_model.cache_clear()
    runs = grid(lab, ("clean",)).runs[:1]
    both = Grid("both", (*runs, *(replace(run, defense="pdmpure") for run in runs)))
    passes = Passes(1, 1, 1, per_second=1, poison=(1, 1))
    monkeypatch.setattr("safezone.lab.cost.count_passes", lambda *_: passes)
    told = dry(lab, both).text.splitlines()
    assert "time not counted" in told[-3] and told[-1].startswith("will fail: One,clean,pdmpure,0:")
    results = run_grid(lab, both, progress=False)
    assert {run.defense: reason for run, reason in results.failed.items()}.keys() == {"pdmpure"}
    assert all("built-in pixel model are missing" in r for r in results.failed.values())
    assert {row.defense for row in results.rows if not row.reason} == {"nominal"}
