"""The FID of a cell over all of its runs, from what the scores keep of each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safezone.lab.stage import job
from safezone.models import Model
from safezone.reading import read_json
from safezone.results.folder import measure
from safezone.results.published import same_runs
from safezone.scores import Encoders
from safezone.scores.metrics import frechet_distance
from small_lab import MeanColour, grid, small_lab


def test_a_grid_pools_the_features_of_its_runs(tiny_model: Model, tmp_path: Path) -> None:
    encoders = Encoders({"instance": MeanColour(), "inception": MeanColour()}, "mean colour")
    lab = replace(small_lab(tmp_path / "work", tiny_model), encoders=encoders)
    runs = grid(lab, poisons=("clean",))
    folder = tmp_path / "result"
    measured = measure(lab, runs, tmp_path, folder, title="T", command="c", progress=False)
    pooled = read_json(folder / "index.json")["pooled"]
    assert [cell["defense"] for cell in pooled] == ["nominal", "szt"]
    for cell in pooled:
        places = [job(lab, run).of["score"].place for run in runs if run.defense == cell["defense"]]
        features = [load_file(place / "inception.safetensors") for place in places]
        sets = (torch.cat([each[name] for each in features]) for name in ("generated", "clean"))
        assert cell["value"] == pytest.approx(float(frechet_distance(*sets)))
        assert (cell["n_generated"], cell["n_reference"]) == (2, 6)
    page = measured.page.read_text()
    assert "FID over all concepts and seeds at once" in page
    assert "(2 generated, 6 reference images)" in page


def test_the_papers_fid_and_clip_scores_stand_beside_those_that_are_comparable() -> None:
    tables = same_runs(17)
    assert tables["fid"] is tables["frechet"]
    assert tables["clip_score_token"] is tables["clip_score"]
