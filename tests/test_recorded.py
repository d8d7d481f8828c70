"""Images are scored with the encoders that suit the model which made them, unless told others."""

import json
from pathlib import Path

import pytest

from safezone.commands.arguments import parse
from safezone.commands.report import ReportCommand, ScoreCommand
from safezone.errors import UserError
from safezone.lab.store import IMAGES_RECORD
from safezone.results.artifacts import INDEX


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "toy" / "images"
    folder.mkdir(parents=True)
    record = {"model": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    (folder / IMAGES_RECORD).write_text(json.dumps(record))
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("more", "encoders"),
    [
        ([], ("dinov2", "clip")),
        (["--model", "mini"], ("mini-instance", "mini-clip")),
        (["--model=mini"], ("mini-instance", "mini-clip")),
        (["--instance-encoder", "mini-instance"], ("mini-instance", "clip")),
    ],
)
def test_the_encoders_are_those_of_the_model_that_made_the_images(
    made: Path, more: list[str], encoders: tuple[str, str]
) -> None:
    for options in (
        parse(ReportCommand, [str(made), *more]),
        parse(ScoreCommand, [str(made), "--clean", str(made.parent), *more]),
    ):
        scoring = options.scoring
        assert (scoring.instance_encoder, scoring.text_image_encoder) == encoders


@pytest.mark.parametrize("measured", ["runs", "runs/toy"])
def test_other_encoders_of_what_was_measured_are_refused(made: Path, measured: str) -> None:
    (made.parent / measured / INDEX).write_text(json.dumps({"grid": "toy"}))
    with pytest.raises(UserError, match="was scored when it was measured"):
        parse(ReportCommand, [str(made), "--instance-encoder", "mini-instance"]).run()


def test_what_nobody_recorded_is_scored_as_the_built_in_model_is(tmp_path: Path) -> None:
    assert parse(ReportCommand, [str(tmp_path)]).scoring.instance_encoder == "mini-instance"
