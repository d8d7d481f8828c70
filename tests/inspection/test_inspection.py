"""What tells a poison from clean images: the features, the detectors, the command."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safezone.cli import main
from safezone.commands import personalize
from safezone.commands.arguments import parse
from safezone.concepts import save_concept
from safezone.defenses import defense
from safezone.errors import UserError
from safezone.images import read_image, to_float, to_square, write_png
from safezone.inspection import features
from safezone.inspection.detector import (
    ADVICE,
    FEWEST,
    RATE,
    Detector,
    Finding,
    common_kind,
    detectors,
    findings,
    personalize_command,
)
from safezone.inspection.features import features_of, image_features, pixel_features
from safezone.models import Model
from safezone.poisons import poison, poison_images
from small_lab import concept


def smooth(count: int = 1, side: int = 64) -> Tensor:
    """Soft waves of colour, each of them another, uint8 [count, 3, side, side]."""
    y, x = torch.meshgrid(*[torch.arange(side) / side] * 2, indexing="ij")
    shifts = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 6
    return (128 + 70 * torch.sin(4 * x + 3 * y + shifts)).to(torch.uint8)


def with_signs(images: Tensor, level: int, seed: int = 0) -> Tensor:
    signs = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.to(torch.int16) + level * (2 * signs - 1)).clamp(0, 255).to(torch.uint8)


def test_noise_is_told_in_levels_and_by_its_shape() -> None:
    for level in (4, 8, 16):
        features = pixel_features(with_signs(smooth(side=128), level)[0])
        assert 2 ** features["noise"] == pytest.approx(level / 3**0.5, rel=0.15)  # of three colours
        assert features["shape"] < 1.25  # of one magnitude
        assert abs(features["channels"]) < 0.1
    normal = 8 * torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(1))
    features = pixel_features((smooth(side=128)[0] + normal).round().clamp(0, 255).to(torch.uint8))
    assert features["shape"] == pytest.approx(np.pi / 2, rel=0.1)


def test_clean_waves_have_less_noise_near_nyquist_than_noisy_ones() -> None:
    clean, noisy = (pixel_features(image) for image in (smooth()[0], with_signs(smooth(), 8)[0]))
    assert clean["noise"] < noisy["noise"] - 2
    assert clean["top"] < noisy["top"]
    assert noisy["jpeg"] < clean["jpeg"]  # a JPEG takes noise


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.full((3, 33, 47), 255, dtype=torch.uint8),
        torch.randint(0, 256, (3, 800, 40), dtype=torch.uint8),
    ],
    ids=["black", "white", "long"],
)
def test_any_image_has_finite_features(image: Tensor, tiny_model: Model) -> None:
    assert all(np.isfinite(value) for value in pixel_features(image).values())
    square = image[:, :32, :32].repeat(1, 2, 2)
    (features,) = image_features([square], tiny_model)
    assert all(np.isfinite(value) for value in features.values())


def test_features_of_an_image_do_not_depend_on_its_neighbours(tiny_model: Model) -> None:
    images = list(with_signs(smooth(5), 4))
    together = image_features(images, tiny_model)
    for image, expected in zip(images, together, strict=True):
        (alone,) = image_features([image], tiny_model)
        assert alone == pytest.approx(expected, abs=1e-3)


def test_a_poison_moves_the_latents_where_it_is_and_noise_does_everywhere(
    tiny_model: Model,
) -> None:
    clean = smooth(4)
    row = replace(poison("ea"), steps=20)
    names = [str(index) for index in range(4)]
    poisoned = poison_images(tiny_model, to_float(clean), row, 0, names, progress=False)
    noise = with_signs(clean, 16)

    def gains(images: Tensor) -> Tensor:
        return torch.tensor([f["fine gain"] for f in image_features(list(images), tiny_model)])

    assert gains(poisoned).mean() > gains(noise).mean() + 0.4
    assert gains(poisoned).min() > gains(noise).max()


def _detector(**changes: Any) -> Detector:
    usual: dict[str, Any] = {
        "features": ("noise", "fine gain", "broad gain"),
        "centre": (0.0, 0.0, 0.0),
        "scale": (1.0, 2.0, 1.0),
        "weight": (1.0, 1.0, 1.0),
        "square": (0.0, 0.5, 0.0),
        "bias": -1.0,
        "threshold": 0.5,
        "rates": {},
    }
    return Detector(**(usual | changes))


def _features(noise: float = 0, fine: float = 0, broad: float = 0) -> Mapping[str, float]:
    return {"noise": noise, "fine gain": fine, "broad gain": broad, "unused": 1.0}


def test_the_score_is_a_logistic_regression_on_features_and_their_squares() -> None:
    total = -1 + 0.5 + (3 / 2 + 0.5 * (3 / 2) ** 2) - 0.2
    score = _detector().score(_features(0.5, 3, -0.2))
    assert score == pytest.approx(1 / (1 + np.exp(-total)))
    far = _detector().score(_features(1e9))
    assert far == _detector().score(_features(4))  # one feature alone cannot say more


def test_the_kind_is_what_the_model_speaks_of_and_only_above_the_threshold() -> None:
    detector = _detector()
    assert detector.kind(_features()) == "nothing"
    assert detector.kind(_features(2, fine=2, broad=1)) == "fine"
    assert detector.kind(_features(2, fine=1, broad=2)) == "broad"
    pixels = _detector(
        features=("noise",), centre=(0,), scale=(1,), weight=(1,), square=(0,), bias=0
    )
    assert pixels.kind(_features(1)) == "fine"


def test_a_threshold_on_clean_images_lets_its_rate_of_others_through() -> None:
    rng = np.random.default_rng(0)
    few, many = (
        [_features(*(rng.normal(7, 3, 3).tolist())) for _ in range(n)] for n in (199, 4000)
    )
    detector = _detector().for_clean(few)
    found = findings(detector, {str(index): each for index, each in enumerate(many)})
    flagged = [finding.flagged for finding in found]
    assert np.mean(flagged) == pytest.approx(RATE, abs=0.03)
    assert detector.rates == {}
    with pytest.raises(UserError, match=f"at least {FEWEST}"):
        _detector().for_clean(few[: FEWEST - 1])


def test_the_detectors_that_ship_fit_the_features_and_tell_their_rates(tiny_model: Model) -> None:
    shipped = detectors()
    assert set(shipped) == {"mini", "photographs"}
    (features,) = image_features(list(smooth()), tiny_model)
    assert set(shipped["mini"].features) == set(features)
    assert set(shipped["photographs"].features) == set(pixel_features(smooth()[0]))
    assert shipped["photographs"].model is None
    for detector in shipped.values():
        sizes = (detector.centre, detector.scale, detector.weight, detector.square)
        assert {len(each) for each in sizes} == {len(detector.features)}
        assert 0 < detector.threshold < 1
        assert {"as they are", "JPEG 75", "WebP 80", "screenshot"} <= set(detector.rates)
        for share, low, high, count in detector.rates.values():
            assert 0 <= low <= share <= high <= 1
            assert count >= 30


@pytest.mark.parametrize("kind", ADVICE)
@pytest.mark.parametrize("masks", [True, False])
def test_the_advice_is_a_command_that_can_be_given(tmp_path: Path, kind: Any, masks: bool) -> None:
    own = concept("A toy")
    folder = tmp_path / "a toy"
    save_concept(own if masks else replace(own, masks=None), folder)
    words = personalize_command(folder, kind, "mini", masks=masks).split("personalize ")[1]
    options = parse(personalize.PersonalizeCommand, shlex.split(words), "personalize")
    assert options.folders == (folder,)
    (name,) = options.defense
    assert name == ADVICE[kind][0 if masks else 1]
    assert (defense(name).loss_mask == defense("nominal").loss_mask) == (
        not masks or kind == "nothing"
    )


def test_a_mask_that_is_missing_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_concept(concept("A toy"), tmp_path / "toy")
    (tmp_path / "toy" / "masks" / "b.png").unlink()
    monkeypatch.setattr(features, "features_of", lambda *_: pytest.fail("worked"))
    assert main(["inspect", str(tmp_path / "toy")]) == 2
    assert "b.png is missing" in capsys.readouterr().err


def test_the_kind_of_a_folder_is_that_of_most_flagged_images() -> None:
    def finding(kind: Any) -> Finding:
        return Finding(kind, 0.5, kind != "nothing", kind, {})

    kinds = ["nothing", "nothing", "broad", "fine", "broad"]
    assert common_kind([finding(kind) for kind in kinds]) == "broad"
    assert common_kind([finding("nothing")] * 3) == "nothing"


def _photographs(folder: Path, images: Tensor) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


def _inspected(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    assert main(["inspect", *words, "--json"]) == 0
    said = capsys.readouterr()
    data: dict[str, Any] = json.loads(said.out)
    return data, said.err


def test_photographs_without_a_model_are_judged_by_their_pixels_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _photographs(tmp_path / "photos", smooth(3, 96))
    data, notes = _inspected(capsys, str(folder))
    assert [each["name"] for each in data["images"]] == ["0.png", "1.png", "2.png"]
    assert "fine gain" not in data["images"][0]["features"]
    assert "by their pixels" in notes
    assert len(data["limits"]) == 1
    assert data["false_positive_rates"]
    assert data["command"].startswith(f"safezone personalize {folder} --defense ")
    assert "--model sd15" in data["command"]
    assert main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "0.png: " in said
    assert "clean images, JPEG 75: " in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["photos", "0.png", "1.png", "2.png"]
    )


def test_files_that_say_themselves_that_they_are_poisoned_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _photographs(tmp_path / "photos", smooth(3, 96))
    strange = json.dumps({"poison": f"\x1b[2J{'x' * 100}"})
    told = ('{"poison": "adm+", "seed": 0}', "[1]", "[" * 100_000, strange)
    for name, said in enumerate(told):
        write_png(folder / f"{name}.png", smooth(1, 96)[0], {"safezone": said})
    data, _ = _inspected(capsys, str(folder))
    assert data["recorded"] == {"0.png": "adm+", "3.png": f"\\x1b[2J{'x' * 53}"}
    (folder / "3.png").unlink()
    assert main(["inspect", str(folder)]) == 0
    assert "poisoned for certain: 1 image with" in capsys.readouterr().out


def test_any_model_can_be_used_with_clean_images_of_ones_own(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = _photographs(tmp_path / "clean", smooth(FEWEST))
    noisy = _photographs(tmp_path / "noisy", with_signs(smooth(2), 16))
    model = ["--model", str(tiny_model_folder), "--clean", str(clean)]
    data, _ = _inspected(capsys, str(noisy), *model)
    assert data["chosen_on"] == str(clean)
    assert data["false_positive_rates"] == {}
    assert "fine gain" in data["images"][0]["features"]


def test_pictures_of_the_built_in_world_are_judged_with_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["concepts", "export", str(tmp_path / "all"), "--json"]) == 0
    capsys.readouterr()
    folder = tmp_path / "all" / "HattedMug"
    for stem in ("02", "03", "04"):
        (folder / f"{stem}.png").unlink()
        (folder / "masks" / f"{stem}.png").unlink()
    data, _ = _inspected(capsys, str(folder))
    assert len(data["images"]) == 2
    assert "fine gain" in data["images"][0]["features"]
    assert data["chosen_on"] == "pictures of the built-in world"


def test_a_file_is_looked_at_in_its_own_size_without_a_model(
    tmp_path: Path, tiny_model: Model
) -> None:
    large = with_signs(smooth(1, 200), 8)
    folder = _photographs(tmp_path / "photos", large)
    (alone,) = features_of(folder, None).values()
    assert alone == pixel_features(large[0])
    (with_model,) = features_of(folder, tiny_model).values()
    assert with_model["noise"] < alone["noise"]  # made smaller, as the model is trained


def test_of_large_photographs_only_what_is_looked_at_is_kept(
    tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many bytes as the middle or the square has, and the same features to the bit."""
    waves = smooth(2, 1601)[:, :, :1203]
    folder = _photographs(tmp_path / "photos", with_signs(waves, 8))
    whole = [torch.from_numpy(read_image(path)) for path in sorted(folder.iterdir())]
    planes = [image.permute(2, 0, 1).contiguous() for image in whole]
    size = tiny_model.image_size
    squares = [
        torch.from_numpy(to_square(image.numpy(), size)).permute(2, 0, 1).contiguous()
        for image in whole
    ]
    expected = [image_features(planes, None), image_features(squares, tiny_model)]
    kept: list[int] = []

    def looked_at(pictures: list[Tensor], model: Model | None) -> list[dict[str, float]]:
        kept.extend(picture.untyped_storage().nbytes() for picture in pictures)
        return image_features(pictures, model)

    monkeypatch.setattr(features, "image_features", looked_at)
    seen = [list(features_of(folder, model).values()) for model in (None, tiny_model)]
    assert seen == expected
    assert kept == [3 * 768**2] * 2 + [3 * size**2] * 2
