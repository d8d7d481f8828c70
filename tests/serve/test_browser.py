"""`safezone serve` in a browser: real clicks from pictures to the verdict, and what is refused."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import torch

from chromium import CHROMIUM, Page
from processes import start
from safezone.concepts.datasets import miniworld_concepts
from safezone.images import read_mask, write_png
from wrong_uploads import WRONG

SMALLEST = """\
training: {steps: 2, batch_size: 1}
poisoning: {steps: 1}
sampling: {prompts: ["a {}"], images_per_prompt: 1, steps: 1}
scoring: {instance_encoder: mini-instance, text_image_encoder: none}
"""
"""On a tiny model: one step of everything."""


_ADDRESS: Final = re.compile(r"open (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class Site:
    """A page that is served, its folder, and a tab."""

    tab: Page
    address: str
    folder: Path
    server: BaseProcess


@pytest.fixture
def site(tmp_path: Path, tiny_model_folder: Path) -> Iterator[Site]:
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome on this machine; install chromium to run it")
    (tmp_path / "smallest.yaml").write_text(SMALLEST)
    folder = tmp_path / "kept"
    options = ["--folder", str(folder), "--port", "0", "--model", str(tiny_model_folder)]
    options += ["--config", str(tmp_path / "smallest.yaml")]
    server = start(["serve", *options], tmp_path)
    try:
        while not (found := _ADDRESS.match((tmp_path / "error").read_text())):
            assert server.is_alive()
            time.sleep(0.05)
        with Page(tmp_path / "profile") as tab:
            tab.screen(1280, 900)
            yield Site(tab, found[1], folder, server)
    finally:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGINT)
        server.join(60)
        assert server.exitcode in (0, 130)  # 0 where a shell lets it ignore the signal


def _state(tab: Page, *states: str) -> None:
    """Waits for one of the states; a whole audit may take long on a busy machine."""
    tab.until(f"{json.dumps(states)}.includes(document.body.dataset.state)", 600)


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """Three pictures of a built-in concept, protected by noise, its originals and masks."""
    concept = {each.name: each for each in miniworld_concepts(64)}["HattedMug"]
    noise = torch.randint(-8, 9, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    clean, masks = concept.images[:3], concept.masks
    assert masks is not None
    sides = {
        "protected": (clean.to(torch.int64) + noise).clamp(0, 255).to(torch.uint8),
        "clean": clean,
        "masks": masks[:3],
    }
    for side, images in sides.items():
        for index, image in enumerate(images):
            write_png(folder / side / f"{index}.png", image)
    return {side: sorted((folder / side).glob("*.png")) for side in sides}


SENT: Final = (
    *("a text named PNG", "an empty file", "a PNG cut short", "an animated GIF", "a bomb"),
    *("a header of huge size", "a hundred files", "names that differ in their ending"),
    *("fewer originals", "a mask of another size", "a mask that is black", "nothing"),
)
"""Of ``WRONG``, what a browser can send."""


def _refused(site: Site, folder: Path, name: str) -> None:
    """Chooses the files, clicks, reads the sentence; nothing is kept."""
    files, words = WRONG[name]
    chosen: dict[str, list[Path]] = {}
    for part, (file, content) in files():
        path = folder / name / part / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        chosen.setdefault(part, []).append(path)
    site.tab.visit(site.address)
    for part, paths in chosen.items():
        site.tab.choose(f"input[name={part}]", *paths)
    site.tab.click("#new button")
    site.tab.until("!document.getElementById('told').hidden")
    told = site.tab.run("document.getElementById('told').textContent")
    assert words.rpartition("; ")[2] in told, name
    assert [path.name for path in site.folder.iterdir()] == [".lock"], name


@pytest.mark.slow
def test_a_painted_mask_can_be_taken_away_with_a_click(site: Site, tmp_path: Path) -> None:
    tab, pictures = site.tab, _pictures(tmp_path / "mine")
    tab.visit(site.address)
    tab.choose("input[name=clean]", *pictures["clean"])
    tab.click("#new button")
    tab.until("location.pathname === '/s/my-pictures' && document.readyState === 'complete'")
    tab.until("document.body.dataset.state === 'ready'")
    shown = "document.querySelectorAll('.unmask:not([hidden])').length"
    assert tab.run(shown) == 0
    tab.click(".picture")
    tab.until("document.getElementById('painting').open")
    tab.drag("#canvas", -90, -90)
    tab.click("#keep")
    tab.until(f"{shown} === 1")
    tab.click("#start")
    tab.until("!document.getElementById('told').hidden")
    told = tab.run("document.getElementById('told').textContent")
    assert "not 1.png, 2.png; paint the object there too" in told
    tab.click(".unmask")
    tab.until(f"{shown} === 0")
    assert tab.run("document.getElementById('told').hidden")
    assert tab.run("[...document.querySelectorAll('.mask')].every((image) => image.hidden)")
    assert not list((site.folder / "my-pictures" / "clean" / "masks").iterdir())


@pytest.mark.slow
def test_real_clicks_lead_from_pictures_to_the_verdict_and_nothing_leaves_this_machine(
    site: Site, tmp_path: Path
) -> None:
    tab, pictures = site.tab, _pictures(tmp_path / "mine")
    for name in SENT:
        _refused(site, tmp_path / "wrong", name)
    tab.errors.clear()  # Chromium's own lines on answers of 400

    tab.visit(site.address)
    for part, files in pictures.items():
        tab.choose(f"input[name={part}]", *files)
    tab.click("#new button")
    tab.until("location.pathname === '/s/my-pictures' && document.readyState === 'complete'")
    tab.until("[...document.querySelectorAll('.picture img')].filter((i) => i.src).length === 6")
    painted = site.folder / "my-pictures" / "clean" / "masks" / "0.png"
    before = read_mask(painted)
    tab.click(".picture")
    tab.until("document.getElementById('painting').open")
    tab.drag("#canvas", -90, -90)
    tab.click("#keep")
    tab.until("!document.getElementById('painting').open")
    tab.click("#start")
    _state(tab, "running")
    tab.click("#stop")
    _state(tab, "stopped")
    after = read_mask(painted)
    assert (after >= before).all() and after.sum() > before.sum()
    tab.click("#start")  # which says "Go on" now
    _state(tab, "running")
    _state(tab, "done", "failed", "stopped")
    assert tab.run("document.getElementById('state').textContent") == "Done"
    verdict = tab.run("document.querySelector('.verdict').textContent")
    audit = json.loads((site.folder / "my-pictures" / "audit" / "audit.json").read_text())
    assert [verdict] == audit["verdicts"]
    assert "szt" in [
        each["attacker"] for each in audit["methods"]["textual inversion"]["attackers"]
    ]
    inside = "document.getElementById('page').contentDocument"
    tab.until(f"!!{inside}?.querySelector('.verdict') && {inside}.readyState === 'complete'")
    assert tab.run(f"{inside}.querySelector('.verdict').textContent") == verdict
    assert tab.errors == []
    asked = {urlsplit(url).netloc for url in tab.requests if not url.startswith(("data:", "blob:"))}
    assert asked == {urlsplit(site.address).netloc}

    tab.click("#remove")
    tab.click("#remove")
    tab.until("location.pathname === '/' && document.readyState === 'complete'")
    assert [path.name for path in site.folder.iterdir()] == [".lock"]
