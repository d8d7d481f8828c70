"""Every kind of wrong input: one sentence on standard error, exit status 2, nothing written."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

from hostile import (
    ADAPTERS,
    CONFIGS,
    FILES,
    GRIDS,
    OPTIONS,
    USUAL,
    Place,
    command_line,
    good_place,
    write_adapter,
)
from safezone.cli import COMMANDS, main, module_of
from safezone.lab.presets import read_settings
from safezone.personalize import load_embedding, save_embedding

FOREIGN: Final = {
    *("--colour-encoder", "--corpus", "--count", "--folder", "--grid", "--head", "--max", "--min"),
    *("--named", "--photos", "--rounds", "--script", "--stage"),  # of training.quality, benchmarks
}
"""Options of other programs, and of the pages' own examples, in the documents."""


def _nothing(place: Place) -> None:
    pass


def _adapter(content: Any) -> Callable[[Place], object]:
    return lambda place: write_adapter(place.root / "e.safetensors", content)


def _written(name: str, text: str) -> Callable[[Place], object]:
    return lambda place: (place.root / name).write_text(text)


ROWS: dict[str, tuple[Callable[[Place], object], str, str]] = {
    **{
        line: (_nothing, line.rpartition(" | ")[0], line.rpartition(" | ")[2])
        for line in OPTIONS.strip().splitlines()
    },
    **FILES,
    **{
        text: (_written("settings.yaml", text), "personalize --config {root}/settings.yaml", word)
        for text, word in CONFIGS
    },
    **{
        text: (_written("grid.yaml", text), "grid run {root}/grid.yaml", word)
        for text, word in GRIDS
    },
    **{
        f"an adapter {name}": (
            _adapter(content),
            "generate",
            word,
        )
        for name, (content, word) in ADAPTERS.items()
    },
}
"""All that is refused: how a good place becomes it, the command, a word of the answer."""


class Hangs(BaseException):
    pass


@pytest.fixture
def in_time() -> Iterator[None]:
    """A command that waits for a pipe would wait for ever."""

    def stop(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(tmp_path: Path, tiny_model_folder: Path) -> Place:
    return good_place(tmp_path, tiny_model_folder)


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _one_sentence(text: str, hint: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, text
    assert lines[0].startswith("safezone: ")
    assert hint in lines[0]
    assert "Traceback" not in text


def test_there_are_two_hundred() -> None:
    assert len(ROWS) >= 200
    commands = {" ".join(name.split()[:2]) for name in USUAL}
    texts = [command for _, command, _ in ROWS.values()]
    used = {name for name in commands if any(text.startswith(name) for text in texts)}
    assert commands - used == {"grid list"}  # which takes nothing that could be wrong


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.usefixtures("in_time")
def test_one_sentence_and_status_2(
    name: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, command, hint = ROWS[name]
    damage(place)
    before = _tree(tmp_path)
    capsys.readouterr()
    assert main(command_line(place, command)) == 2
    said = capsys.readouterr()
    _one_sentence(said.err, hint.strip())
    assert said.out == ""
    assert _tree(tmp_path) == before


def test_model_with_nan_weights(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(place.model, broken)
    path = broken / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: torch.full_like(v, float("nan")) for k, v in load_file(path).items()}, path)
    arguments = command_line(place, f"poison --model {broken}")
    assert main(arguments) == 2
    _one_sentence(capsys.readouterr().err, "NaN")
    assert not place.out.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_disk_that_cannot_be_written(
    code: int,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(place.out))

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    assert main(command_line(place, "poison")) == 2
    _one_sentence(capsys.readouterr().err, "out")
    assert not place.out.exists()


@pytest.mark.parametrize("command", ["export", "export --form diffusers", "generate"])
@pytest.mark.parametrize("where", ["full while written", "full when put in place"])
def test_a_full_disk_at_export_and_generate(
    command: str,
    where: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The system's own refusal, as safetensors and Pillow tell it, and that of the last step."""
    arguments = command_line(place, command)
    before = _tree(place.root)
    if where == "full when put in place":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.out))

        monkeypatch.setattr(os, "replace", refuse)
        status = main(arguments)
    else:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
        try:
            status = main(arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    said = capsys.readouterr()
    _one_sentence(said.err, "has free space")
    assert said.out == ""
    assert _tree(place.root) == before


@pytest.mark.parametrize("command", ["poison", "personalize", "score"])
@pytest.mark.parametrize("text", ["a toy, grass", "\ufeffa\u00a0toy\u200b", "two\nlines"])
def test_captions_that_nobody_asked_for_stop_no_command(
    command: str, text: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem in "abc":
        (place.images / f"{stem}.txt").write_text(text, encoding="utf-8")
    assert main(command_line(place, command)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if ".txt" in line]
    assert all(line.startswith("note: ") for line in lines)
    assert len(lines) <= 1


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("mask", "FOLDER"),
        ("poison", "--out and FOLDER"),
        ("export --out x", "FOLDER"),
        ("generate", "FOLDER"),
        ("export", "--out"),
        ("analyze histogram", "FOLDER"),
        ("audit", "FOLDER"),
        ("inspect", "FOLDER"),
    ],
)
def test_what_must_be_given_is_named_as_in_the_help(
    command: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    _one_sentence(error, "; see `safezone ")
    assert set(missing.split(" and ")) <= set(re.findall(r"--?[\w-]+|\w+", error))
    assert main([*command.removesuffix(" --out x").split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in missing.split(" and "))


def test_a_list_writes_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["concepts", "list", "toys"]) == 2
    _one_sentence(capsys.readouterr().err, "write safezone concepts export toys")


def test_exit_status_of_the_process(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safezone", "poison", str(place.images / "nowhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    _one_sentence(done.stderr, "--out")


def test_settings_that_yaml_reads_as_words(place: Place) -> None:
    file = place.root / "settings.yaml"
    file.write_text("training: {learning_rate: 1e-4}\n")  # a text to YAML 1.1
    assert read_settings(file, None).training.learning_rate == 1e-4


def test_a_folder_whose_name_is_no_utf_8(place: Place, capsysbinary: Any) -> None:
    odd = Path(os.fsdecode(os.fsencode(place.root) + b"/caf\xe9"))
    place.images.rename(odd)
    assert main(["mask", str(odd), "--json"]) == 0
    assert json.loads(capsysbinary.readouterr().out)["masks"] == str(odd / "masks")
    assert main(["mask", str(odd)]) == 0
    assert rb"caf\udce9" in capsysbinary.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("poison", "memory ran out"),
        ("personalize", "--checkpointing, --runs-per-pass 1, --batch-size 1"),
        ("generate", "--precision bfloat16"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "GPU", "CPU"],
)
def test_out_of_memory_says_what_to_lower(
    command: str,
    words: str,
    error: Exception,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("safezone.commands.opening.load_model", fail)
    assert main(command_line(place, command)) == 2
    _one_sentence(capsys.readouterr().err, words)


def test_two_embeddings_of_one_name_are_not_drawn_into_one_folder(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    other = place.root / "other" / "e.safetensors"
    other.parent.mkdir()
    shutil.copy(place.root / "e.safetensors", other)
    for command in ("generate", "export"):
        assert (
            main(
                command_line(
                    place,
                    f"{command} {{root}}/e.safetensors {other} --out {{out}} --model {{model}}",
                )
            )
            == 2
        )
        _one_sentence(capsys.readouterr().err, "one at a time")
        assert not place.out.exists()


def test_nothing_is_drawn_of_failed_runs_only(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = load_embedding(place.root / "e.safetensors")
    failed = replace(adapter, provenance={**adapter.provenance, "failed_at": 3})
    save_embedding(failed, place.root / "e.safetensors")
    for command in ("generate", "export"):
        assert main(command_line(place, command)) == 2
        _one_sentence(capsys.readouterr().err, "failed runs only")


def test_documents_name_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"--help", "--version"}
    for name in COMMANDS:
        verbs = getattr(module_of(name), "VERBS", {"": None})
        for verb in verbs:
            assert main([*f"{name} {verb}".split(), "--help"]) == 0
            known |= set(re.findall(r"--[a-z][a-z.-]*[a-z]", capsys.readouterr().out))
    root = Path(__file__).parents[1]
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        told = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", page.read_text()))
        assert told <= known | FOREIGN, page
