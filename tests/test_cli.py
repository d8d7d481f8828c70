"""The commands one after the other on a folder, as a person would use them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from safezone.cli import COMMANDS, main
from safezone.commands import command, opening
from safezone.commands.command import Machine
from safezone.commands.opening import idle_cores
from safezone.images import read_image

SIDE = 64
WITH_TORCH = ("opening",)
"""What commands import when they run."""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three pictures of a disc, larger than the model's, as JPEG."""
    folder = tmp_path / "disc"
    folder.mkdir()
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:120, :160]
    for index in range(3):
        picture = rng.integers(90, 120, (120, 160, 3)).astype(np.uint8)
        inside = (y - 60) ** 2 + (x - 75 - 5 * index) ** 2 < 30**2
        picture[inside] = (220, 40, 30)
        Image.fromarray(picture).save(folder / f"{index}.jpg", quality=95)
    return folder


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(arguments) == 0, capsys.readouterr().err
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Example" in said or "usage" in said
    assert len(said) > 200


def test_idle_cores_are_counted() -> None:
    assert 0 <= idle_cores(0.1) <= (os.cpu_count() or 1) + 0.5


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)


def test_from_photographs_to_a_report(
    photographs: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(tiny_model_folder))
    poisoned, runs = tmp_path / "disc-poisoned", tmp_path / "runs"

    _json(capsys, "mask", str(photographs), "--source", "grabcut", "--preview", "--json")
    assert len(list((photographs / "masks").glob("*.png"))) == 3
    assert len(list((photographs / "mask-previews").glob("*.png"))) == 3

    _json(
        capsys, "poison", str(photographs), *model, "--steps", "3", "--out", str(poisoned), "--json"
    )
    manifest = json.loads((poisoned / "manifest.json").read_text())
    assert manifest["poison"] == "adm+"
    assert all(0 < image["linf"] <= 16 / 255 + 1e-6 for image in manifest["images"])
    assert read_image(poisoned / "0.png").shape == (SIDE, SIDE, 3)
    assert len(list((poisoned / "masks").glob("*.png"))) == 3

    personalize = (
        *("personalize", str(photographs), str(poisoned), *model, "--class-word", "ball"),
        *("--defense", "nominal", "--defense", "szt", "--steps", "2", "--out", str(runs)),
        "--json",
    )
    _json(capsys, *personalize)
    embeddings = sorted(runs.rglob("learned_embeds.safetensors"))
    assert len(embeddings) == 4
    assert all(len(load_file(path)) == 1 for path in embeddings)
    before = {path: path.read_bytes() for path in embeddings}
    _json(capsys, *personalize)  # nothing is left to do
    assert {path: path.read_bytes() for path in embeddings} == before

    sampling = [
        *("--prompts", "a {}", "--prompts", "a {} on grass", "--steps", "2"),
        *("--images-per-prompt", "1"),  # five by default on real models
    ]
    _json(capsys, "generate", str(runs), *model, *sampling, "--json")
    assert len([p for p in runs.rglob("*.png") if p.parent.name == "images"]) == 8

    scores = _json(
        capsys,
        *("score", str(embeddings[0].parent / "images"), "--clean", str(photographs)),
        *("--model", "mini", "--json"),
    )
    assert "instance_similarity" in json.dumps(scores)

    answer = _json(capsys, "report", str(runs), "--json")
    page = Path(str(answer["page"]))
    assert page.stat().st_size > 10_000
    assert "http://" not in page.read_text().replace("http://www.w3.org", "")


def test_claim_on_a_tiny_model_goes_on_where_it_stopped(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        *("claim", "--model", str(tiny_model_folder), "--out", str(tmp_path / "claim")),
        *("--concepts", "2", "--seeds", "1", "--poison", "adm+"),
        *("--defense", "nominal", "--defense", "szt", "--steps", "2", "--poisoning.steps", "1"),
        *("--sampling.prompts", "a {}", "--sampling.steps", "2"),
        *("--instance-encoder", "mini-instance", "--text-image-encoder", "mini-clip", "--json"),
    )
    planned = _json(capsys, *arguments, "--dry-run")
    assert planned["stages"]["personalize"] == {"done": 0, "all": 8}  # type: ignore[index]
    first = _json(capsys, *arguments)
    assert not first["failed"]
    rows = (tmp_path / "claim" / "rows.csv").read_bytes()
    assert rows.count(b"instance_similarity") == 8
    planned = _json(capsys, *arguments, "--dry-run")
    assert planned["stages"]["personalize"] == {"done": 8, "all": 8}  # type: ignore[index]
    _json(capsys, *arguments)
    assert (tmp_path / "claim" / "rows.csv").read_bytes() == rows


def test_the_command_line_answers_before_torch_is_imported() -> None:
    modules = [path.stem for path in Path(command.__file__).parent.glob("*.py")]
    lines = [f"import safezone.commands.{name}" for name in modules if name not in WITH_TORCH]
    code = "\n".join([*lines, "import sys", "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_one_kind_are_told_without_the_rooms_of_others() -> None:
    lines = ["import sys", "from safezone.cli import main"]
    lines += ["assert main(['prompts']) == main(['list', 'prompts']) == 0"]
    lines += ["others = {'personalize', 'scores.loading', 'paper.named'}"]
    lines += ["assert not {f'safezone.{each}' for each in others} & {*sys.modules}"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_poisons_of_one_objective_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(capsys, "list", "poisons", "--json")["poisons"]
    assert isinstance(told, dict)
    assert told["adm+"].startswith("raised: ") and told["adm-"].startswith("lowered: ")
    assert told["adm+@lm"].startswith("raised; own mask: ")


def test_idle_cores_help_with_the_built_in_model_unless_threads_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(opening, "idle_cores", lambda: 3.7)
    monkeypatch.setattr(opening, "memory_left", lambda: 5 * 2**30)
    on_a_cpu = Machine(device="cpu")
    two = Machine(device="cpu", threads=2)
    share = opening.machine_and_sharers
    assert share("mini", on_a_cpu) == (Machine(device="cpu", threads=1), 3)  # memory has room for 2
    assert share("mini", on_a_cpu, alone=True) == (on_a_cpu, 1)
    assert share("sd15", on_a_cpu) == (on_a_cpu, 1)
    assert share("mini", two) == (two, 1)
    monkeypatch.setattr(opening, "idle_cores", lambda: 0.2)
    assert share("mini", on_a_cpu) == (on_a_cpu, 1)
    monkeypatch.setattr(opening, "idle_cores", lambda: 3.7)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert share("mini", on_a_cpu) == (on_a_cpu, 1)
