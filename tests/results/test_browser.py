"""The page in a browser: cells, pictures, sorting, light and dark, a phone, no request."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chromium import CHROMIUM
from chromium import Page as Tab
from safezone.results.artifacts import THUMBNAIL, Evidence, Strip, picture, training_pictures
from safezone.results.folder import write_page
from safezone.results.page import Page, Section
from safezone.results.published import same_runs
from safezone.scores import Row

POISONS = ("clean", "adm+", "ea")
DEFENSES = ("nominal", "jpeg", "szt")
METRIC = "instance_similarity"


def square(shade: int) -> torch.Tensor:
    image = torch.full((3, 128, 128), shade, dtype=torch.uint8)
    image[0, 32:96, 32:96] = 255 - shade
    return image


def section(number: int = 17) -> Section:
    rows, strips, facts, training = [], {}, {}, {}
    for p, poison in enumerate(POISONS):
        for d, defense in enumerate(DEFENSES):
            for c in range(6):
                for seed in range(2):
                    mean = 0.5 if p == 0 else 0.1 + 0.15 * d
                    value = mean + 0.01 * ((3 * c + 2 * seed + d) % 5)
                    cell = (f"c{c}", poison, defense, "textual inversion", "mini", seed)
                    rows.append(Row(*cell, METRIC, value, 6, 5))
                    rows.append(Row(*cell, "clip_score", value / 2, 6, 5))
            drawn = Strip(
                (
                    picture(square(40 * p + 9 * d), "a photo of a <c>", THUMBNAIL),
                    picture(square(90 + 9 * d), "a <c> on </script>grass", THUMBNAIL),
                ),
                "4 vectors of 128",
            )
            strips[poison, defense] = {f"c{c}": drawn for c in range(6)}
            facts[poison, defense] = {"training": "steps 400"}
        for c in range(6):
            pictures = training_pictures(
                square(30)[None], square(30 + 8 * p)[None], f"c{c}", THUMBNAIL
            )
            training[f"c{c}", poison] = pictures
    return Section(
        name=f"table{number}",
        title=f"Table {number}",
        rows=rows,
        metric=METRIC,
        papers=same_runs(number),
        evidence=Evidence(strips, training, facts, {f"c{c}": "toy" for c in range(6)}),
        failed={"c0,da,szt,0": "the training became NaN at step 2"},
        notes=[paper.note for paper in same_runs(number).values() if paper.note],
        command=f"safezone grid run table{number} --model mini",
    )


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome on this machine; install chromium to run it")
    two = Page("Two tables", [section(), section(12)], versions={"safezone": "1"})
    write_page(two, tmp_path / "p.html")
    with Tab(tmp_path / "profile") as page:
        page.screen(1280, 900)
        page.open(tmp_path / "p.html")
        yield page


CELL = "document.querySelector('.cell[data-cell=\"0.0|adm+|szt\"]')"


@pytest.mark.slow
def test_in_a_browser_a_click_opens_a_cell_and_nothing_is_asked_of_anyone(page: Tab) -> None:
    page.run(f"{CELL}.click()")
    page.until("document.getElementById('behind').open")
    page.until("[...document.querySelectorAll('#behind img')].every((i) => i.naturalWidth === 96)")
    assert page.run("document.querySelectorAll('#behind img').length") == 6 * 4
    said = page.run("document.getElementById('behind').innerText")
    for part in ("ADM+, SZT", "paper 0.43", "steps 400", "Holm p", "recovery", "4 vectors of 128"):
        assert part in said
    assert "safezone grid run table17 --model mini --only adm+ --only szt" in said
    assert "a <c> on </script>grass" in page.run("document.querySelector('#behind ol').textContent")
    page.run("document.querySelector('#behind .close').click()")
    assert not page.run("document.getElementById('behind').open")
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in page.requests if url.startswith("file:")]) == 1


FIGURE = "document.querySelector('#table17 .plots')"


@pytest.mark.slow
def test_in_a_browser_figures_are_there_and_can_be_read_in_light_and_dark(page: Tab) -> None:
    inks = set()
    for width, scheme in ((1280, "light"), (375, "dark")):
        page.screen(width, 900, scheme)
        assert page.run(f"{FIGURE}.querySelectorAll('svg.plot').length") == len(POISONS) + 1
        texts = page.run(f"[...{FIGURE}.querySelectorAll('text, b')].map((t) => t.textContent)")
        assert {"Clean", "ADM+", "EA", "Poisons, mean", "Nominal", "JPEG", "SZT"} <= set(texts)
        tall = (
            f"[...{FIGURE}.querySelectorAll('text')].map((t) => t.getBoundingClientRect().height)"
        )
        assert min(page.run(tall)) >= 9  # pixels
        assert page.run(f"{FIGURE}.querySelectorAll('.hollow use').length") == 4 * len(DEFENSES)
        inks.add(page.run(f"getComputedStyle({FIGURE}.querySelector('text')).fill"))
    assert len(inks) == 2
    plane = "[...document.querySelectorAll('#table17 svg.plane text')].map((t) => t.textContent)"
    assert {"CLIP score", "Instance similarity", "SZT"} <= set(page.run(plane))
    assert page.errors == []


@pytest.mark.slow
def test_in_a_browser_tables_sort_filter_and_fit_a_phone_in_light_and_dark(page: Tab) -> None:
    column = (
        "[...document.querySelector('.scores').tBodies[0].rows].map((r) => r.cells[0].innerText)"
    )
    before = page.run(column)
    page.run("document.querySelector('.scores th:nth-child(2) button').click()")
    down = page.run(column)
    assert down[0] == "Clean"
    assert sorted(down) == sorted(before)
    page.run("document.querySelector('.scores th:nth-child(2) button').click()")
    assert page.run(column)[0] != "Clean"
    page.run(
        "(() => { const f = document.getElementById('filter'); f.value = 'adm+, szt';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    seen = page.run(
        "[...document.querySelectorAll('.scores')[0].querySelectorAll('.cell')]"
        ".filter((c) => c.offsetParent).map((c) => c.dataset.cell)"
    )
    assert seen == ["0.0|adm+|szt"]
    colours = []
    for scheme in ("light", "dark"):
        page.screen(375, 800, scheme)
        assert page.run("document.documentElement.scrollWidth") <= 375
        colours.append(page.run("getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2
    assert page.errors == []
