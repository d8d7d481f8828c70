"""``safezone poison``: what it writes, and that a killed one goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safezone.cli import main
from safezone.concepts import Concept, save_concept
from safezone.poisons import Checkpoints


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Two noisy pictures with masks."""
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    concept = Concept(
        name="toy",
        class_word="toy",
        images=(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255).byte(),
        masks=masks,
        image_names=("a", "b"),
    )
    save_concept(concept, tmp_path / "toy")
    return tmp_path / "toy"


def command(toy: Path, model: Path, out: Path, *more: str) -> list[str]:
    return ["poison", str(toy), "--model", str(model), "--out", str(out), *more]


def test_it_tells_what_was_done_in_the_manifest_and_in_every_png(
    toy: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    options = (
        "--poison",
        "ADM+@lm@t500",
        "--steps",
        "3",
        "--repetitions",
        "2",
        "--transform",
        "flip",
    )
    assert main(command(toy, tiny_model_folder, tmp_path / "out", *options)) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    expected = {
        "poison": "adm+@lm@t500",
        "objective": "denoising_loss",
        "direction": 1,
        "eta": 1 / 255,
        "steps": 3,
        "repetitions": 2,
        "transform": "Flip()",
        "timesteps": "AtLeast(fraction=0.5)",
        "seed": 0,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert "dilation_px_at_512=16" in manifest["mask"]
    for image in manifest["images"]:
        assert {"psnr", "ssim", "linf", "share_at_bound"} < image.keys()
        assert 20 < image["psnr"] < 60
        assert 0 < image["share_at_bound"] <= 1
    for name in ("a", "b"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            told = json.loads(picture.info["safezone"])
        assert {key: told[key] for key in expected} == expected
        assert told["key"] == manifest["key"]
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2


def test_a_killed_one_goes_on_to_the_same_bytes_and_a_finished_one_stays(
    toy: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = ("--steps", "25")
    assert main(command(toy, tiny_model_folder, tmp_path / "whole", *steps)) == 0
    save, saved = Checkpoints.save, []

    def save_and_die(self: Checkpoints, names: Any, steps: int, *rest: Any) -> None:
        save(self, names, steps, *rest)
        saved.append(steps)
        if saved == [10, 20]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    assert main(command(toy, tiny_model_folder, tmp_path / "out", *steps)) == 130
    assert not (tmp_path / "out").exists()
    assert main(command(toy, tiny_model_folder, tmp_path / "out", *steps)) == 0
    assert saved == [10, 20, 25]
    for name in ("a.png", "b.png", "manifest.json"):
        whole, resumed = ((tmp_path / place / name).read_bytes() for place in ("whole", "out"))
        assert whole == resumed
    assert {path.name for path in tmp_path.iterdir()} == {"toy", "whole", "out"}
    capsys.readouterr()
    (tmp_path / ".unfinished-out").mkdir()  # as of one killed after its last file
    assert main(command(toy, tiny_model_folder, tmp_path / "out", *steps)) == 0
    assert not (tmp_path / ".unfinished-out").exists()
    assert "was done already" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "whole/a.png").read_bytes()


@pytest.mark.parametrize("more", [[], ["--eta", "0.2"], ["--kappa", "3"]])
def test_an_l2_budget_needs_its_own_kappa_and_eta(
    more: list[str], toy: Path, tiny_model_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(command(toy, tiny_model_folder, tmp_path / "out", "--norm", "l2", *more)) == 2
    assert "give both, such as kappa 3 and eta 0.2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.jpg", "out.JPEG"])
def test_jpeg_is_refused_with_the_reason(
    name: str, toy: Path, tiny_model_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(command(toy, tiny_model_folder, tmp_path / name)) == 2
    assert "JPEG would remove the poison" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
