"""How the detectors of `safezone inspect` are fitted and measured, on features that are known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import training.inspection as command
import training.inspection_pictures as pictures
from safezone.inspection.detector import RATE, detectors
from safezone.models import Model
from training.inspection import poison_table
from training.inspection_fit import Cell, auc, fit, rate
from training.inspection_pictures import (
    LEVELS,
    VERSIONS,
    Pictures,
    changed,
    high_share,
    of_folders,
    poisoned,
    with_noise,
)


def _cell(way: str, mean: float, count: int = 400, noise: bool = False) -> Cell:
    rng = np.random.default_rng([len(way), count])
    rows: list[Mapping[str, float]] = [
        {"a": float(rng.normal(mean)), "b": float(rng.normal())} for _ in range(count)
    ]
    return Cell(way, rows, tuple(f"object {i % 8}" for i in range(count)), noise, (1.0,) * count)


def test_a_fit_parts_what_can_be_parted_at_the_rate_of_the_worst_version() -> None:
    clean = [_cell("as they are", 0), _cell("JPEG 75", 0.5), _cell("noise of 8/255", 2, noise=True)]
    detector = fit(clean, [_cell("poison", 4)], None)
    assert detector.weight[0] > 5 * abs(detector.weight[1])
    assert detector.centre[0] == pytest.approx(0, abs=0.15)
    shares = {cell.way: rate(detector, cell)[0] for cell in clean}
    assert max(shares["as they are"], shares["JPEG 75"]) == pytest.approx(RATE, abs=0.01)
    assert rate(detector, _cell("poison", 4))[0] > 0.9
    assert detector.model is None


def test_the_curve_and_the_rates_are_those_of_the_books() -> None:
    clean = _cell("as they are", 0)
    detector = fit([clean], [_cell("poison", 3)], None)
    assert auc(detector, clean, clean).startswith("0.50 [")
    area = float(auc(detector, _cell("other", 1, 2000), clean).split()[0])
    assert area == pytest.approx(0.76, abs=0.03)  # Phi(1 / sqrt 2)
    none = Cell("none", [{"a": -1.0, "b": 0.0}] * 50, ("one",) * 50)
    assert rate(detector, none) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 50), 50))


def test_the_table_has_every_level_with_and_without_a_jpeg() -> None:
    clean = [_cell(way, 0) for way in ("as they are", "JPEG 75", "noise of 8/255")]
    cells = {(level, jpeg): _cell("p", 3) for level in LEVELS for jpeg in (False, True)}
    head, line, row = poison_table(fit(clean, [_cell("p", 3)], None), clean, {"p": cells}).split(
        "\n"
    )
    assert head.count("|") == line.count("|") == row.count("|")
    assert row.count("[") == 7


def _clean(side: int = 128) -> Pictures:
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    return Pictures("test", images, ("one", "one", "two", "two"), (0, 2))


def test_versions_and_noise_keep_size_and_change_pixels() -> None:
    clean = _clean()
    for way, posting in VERSIONS.items():
        images = changed(clean.images, posting)
        assert images.shape == clean.images.shape
        assert torch.equal(images, clean.images) == (way == "as they are")
    change = (with_noise(clean, 8).int() - clean.images.int()).abs()
    assert change.max() == 8
    assert (change == 8).float().mean() > 0.9


def test_a_poison_is_made_once_within_its_budget(tiny_model: Model, tmp_path: Path) -> None:
    clean = _clean(64)
    images = poisoned(tiny_model, clean, "ea", 8, 2, tmp_path)
    assert 0 < (images.int() - clean.images[[0, 2]].int()).abs().max() <= 8
    (file,) = tmp_path.rglob("*.safetensors")
    before = file.stat().st_mtime_ns
    assert torch.equal(poisoned(tiny_model, clean, "ea", 8, 2, tmp_path), images)
    assert file.stat().st_mtime_ns == before
    other = replace(clean, images=255 - clean.images)
    assert not torch.equal(poisoned(tiny_model, other, "ea", 8, 2, tmp_path), images)


def test_the_share_of_high_frequencies() -> None:
    x = torch.arange(64)
    clean = torch.full((1, 3, 64, 64), 128.0)
    for cycles, share in ((2, 0.0), (20, 1.0)):
        wave = 8 * torch.sin(2 * torch.pi * cycles * x / 64).expand(1, 3, 64, 64)
        assert high_share(clean, clean + wave) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--photos", "absent", "no photographs"), ("--poison", "eaa", "eaa"), ("--fitted", "x", "x")],
)
def test_a_wrong_option_is_told_before_anything_is_made(
    option: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([option, value])
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_the_command_writes_detectors_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With features and poisons that cost nothing, all else as it is."""

    def features(images: Sequence[torch.Tensor], model: Any) -> list[Mapping[str, float]]:
        return [{"a": float(each.float().std()), "b": float(each[0, 0, 0])} for each in images]

    def poison(_: Any, given: Pictures, *__: Any) -> torch.Tensor:
        return with_noise(replace(given, images=given.images[list(given.to_poison)]), 40)

    monkeypatch.setattr(command, "image_features", features)
    whole = {str(index): {"a": 60.0 + index, "b": 9.0} for index in range(3)}
    monkeypatch.setattr(command, "features_of", lambda folder, model: whole)
    monkeypatch.setattr(command, "poisoned", poison)
    photos = tmp_path / "photos" / "cup"
    photos.mkdir(parents=True)
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{index}.jpg")
    assert len(of_folders(tmp_path / "photos", 2).to_poison) == 2
    out = tmp_path / "detectors.json"
    small = ["--concepts=2", "--images=1", "--crops=2", "--extra=1", "--poison=ea"]
    command.main([*small, "--photos", str(tmp_path / "photos"), "--out", str(out)])
    said = capsys.readouterr().out
    assert said.count("| poison |") == said.count("| clean images |") == 2
    assert "| ea |" in said
    made = detectors(out)
    assert set(made) == {"mini", "photographs"}
    assert made["mini"].rates["as they are"][3] == 10
    assert made["photographs"].rates["screenshot"][3] == 3
    assert json.loads(out.read_text())["mini"]["model"] == made["mini"].model
    assert pictures.SIDE == 128
