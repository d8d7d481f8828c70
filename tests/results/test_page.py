"""The page is whole: every picture and number, well-formed, nothing from outside."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from result_pages import CLEAN_PICTURES, KEYS, POISONED_PICTURES, PROMPTS, generated
from safezone.errors import UserError
from safezone.results.artifacts import (
    Evidence,
    Strip,
    amplified_difference,
    picture,
)
from safezone.results.folder import sections, write_page, write_results
from safezone.results.meaning import duration_text, meaning_sentences, paper_notes
from safezone.results.page import Page, Section, _command, render_page
from safezone.results.published import AVERAGE, published, same_runs
from safezone.results.run_images import image_folders, read_run_images
from safezone.results.tables import to_csv, to_latex, to_markdown
from safezone.scores.rows import Row, csv_text, read_rows

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Parsed(HTMLParser):
    """Collects what a page holds and checks that every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"repeated attribute in {tag}"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[name] or "" for name in ("src", "href") if name in attributes]
        self.ids += [attributes["id"] or ""] if "id" in attributes else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def decode(uri: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB")
    return np.asarray(picture).transpose(2, 0, 1)


def test_tags_are_closed_and_ids_are_unique(page: Page) -> None:
    parsed = Parsed(render_page(page))
    assert parsed.open == []
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_nothing_is_fetched(page: Page) -> None:
    text = render_page(page)
    assert not re.search(r"https?:|@import|url\(|[\"'(]//", text)
    assert all(link.startswith(("data:", "#")) for link in Parsed(text).links)


def test_every_picture_is_there_once(page: Page) -> None:
    images = Parsed(render_page(page)).images
    shown = [decode(image["src"] or "") for image in images if "src" in image]
    for image in [*CLEAN_PICTURES, *POISONED_PICTURES]:
        assert sum(np.array_equal(image.numpy(), other) for other in shown) == 1
    drawn = [image for place in range(len(KEYS)) for image in generated(place)]
    assert len(shown) == 3 + 3 + 3 + len(drawn)
    for image in drawn:  # lossy: nearest picture is this one's
        errors = [np.abs(image.numpy().astype(int) - other).mean() for other in shown]
        assert min(errors) < 4 and sorted(errors)[1] > 8


def test_every_generated_picture_carries_its_prompt(page: Page) -> None:
    alts = [image["alt"] for image in Parsed(render_page(page)).images]
    assert [alts.count(prompt) for prompt in PROMPTS] == [4, 4]


def test_text_is_escaped_and_there(page: Page) -> None:
    parsed = Parsed(render_page(page))
    for text in (
        page.title,
        *meaning_sentences(page.rows),
        "Small <b>models</b> only.",
        page.sections[0].command,
        "21 min 7 s",
        "6 concepts and 12 runs a cell, 12 generated, 5 reference images a run",
        "400",
        "2.13.0",
    ):
        assert text in parsed.text


def test_ties_are_shown_as_ties(page: Page) -> None:
    text = render_page(page)
    assert 'class="badge tied"' in text
    assert text.count("not shown to be worse than the best of this poison") >= 4


def test_rows_and_tables_can_be_taken_along(page: Page) -> None:
    links = [link for link in Parsed(render_page(page)).links if link.startswith("data:text/plain")]
    texts = [base64.b64decode(uri.split(",", 1)[1]).decode() for uri in links]
    assert texts[-1] == csv_text(page.rows)
    table = page.sections[0].tables[0]
    assert texts[:3] == [to_csv(table), to_markdown(table), to_latex(table)]
    assert len(texts) == 3 * len({row.metric for row in page.rows}) + 1


def with_rows(page: Page, rows: Sequence[Row]) -> Page:
    return replace(page, rows=rows, sections=[replace(page.sections[0], rows=rows)])


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"evidence": Evidence()},
        {"rows": [], "evidence": Evidence(), "notes": [], "settings": {}, "duration": None},
    ],
)
def test_a_page_may_lack_parts(page: Page, change: dict[str, Any]) -> None:
    parsed = Parsed(render_page(Page("t", [replace(page.sections[0], **change)])))
    assert parsed.open == []
    assert ("No scores were measured." in parsed.text) == ("rows" in change)


def test_one_concept_and_seed_has_no_interval(page: Page) -> None:
    single = [row for row in page.rows if (row.concept, row.seed) == ("c0", 0)]
    parsed = Parsed(render_page(with_rows(page, single)))
    assert "1 concept and 1 run a cell" in parsed.text
    assert "nan" not in parsed.text.lower()


def test_models_and_methods_get_their_own_results(rows: list[Row], tmp_path: Path) -> None:
    stable = [replace(row, model="stable") for row in rows]
    lora = [replace(row, method="lora", value=9.0) for row in rows]
    parts = sections(tmp_path, {"title": "t"}, [*rows, *stable, *lora])
    text = render_page(Page("t", parts))
    parsed = Parsed(text)
    assert parsed.open == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert parsed.text.count("What it means") == 3
    assert "textual-inversion on stable" in parsed.text
    assert [len(part.rows) for part in parts] == [len(rows)] * 3
    assert {row.value for row in parts[2].rows} == {9.0}


def test_a_metric_without_a_direction_is_shown_without_ranks(page: Page) -> None:
    mine = [replace(row, metric="my_metric") for row in page.rows if row.metric == "frechet"]
    text = render_page(with_rows(page, mine))
    assert "my_metric" in text and 'title="not shown to be worse' not in text


def test_the_file_is_replaced_whole(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        with pytest.raises(UserError, match="No space left"):
            write_page(page, path)
    assert path.read_text() == "old"
    write_page(page, path)
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_no_utf_8_are_shown_as_far_as_they_can_be(
    page: Page, tmp_path: Path
) -> None:
    odd = replace(page, title="toy \udcff", sections=[])
    text = write_page(odd, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>toy ?</h1>" in text


def test_prompts_belong_to_images(tmp_path: Path) -> None:
    names = ["00-0.png", "00-1.png", "01-0.png"]
    for i, name in enumerate(names):
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(tmp_path / name)
    cell = {"concept": "c", "poison": "ea", "defense": "szt", "method": "m", "model": "mini"}
    record = {
        **{**cell, "seed": 1, "class_word": "toy", "placeholder": "<c>"},
        "images": [{"file": name, "prompt": f"a {name}"} for name in names],
    }
    (tmp_path / "images.json").write_text(json.dumps(record))
    for most in (None, 0, 2):
        drawn = read_run_images(tmp_path, most)
        assert drawn.prompts == [f"a {name}" for name in names[:most]]
        assert [int(image[0, 0, 0]) for image in drawn.images] == [0, 10, 20][:most]
    Image.new("RGB", (8, 9)).save(tmp_path / "01-0.png")
    with pytest.raises(UserError, match=r"01-0\.png and 00-0\.png differ in size; generate"):
        read_run_images(tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"concept": [1]}, "concept is .1.; give text"),
        ({"method": None}, "method is nothing; give text"),
        ({"seed": "x"}, "seed is 'x'; give a whole number"),
        ({"seed": 0.5}, "seed is 0.5; give a whole number"),
        ({"settings": None}, "settings is nothing; give lines of its own"),
        ({"images": []}, "images is empty; give at least one"),
        ({"images": [{"file": "00-0.png"}]}, "images.0.prompt is missing; add it"),
        ({"images": {"file": "00-0.png"}}, "images is .*; give a list"),
    ],
)
def test_a_damaged_record_of_images_is_told(
    tmp_path: Path, change: dict[str, object], what: str
) -> None:
    place = write_images(tmp_path / "images")
    record = json.loads((place / "images.json").read_text()) | change
    (place / "images.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"images.json: {what}.*, or generate the images again"):
        image_folders(tmp_path)


def test_perturbations_are_amplified_around_grey() -> None:
    clean = torch.tensor([10, 10, 10, 200], dtype=torch.uint8).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    poisoned = clean + torch.tensor([0, 2, 250 - 256, 16], dtype=torch.int16).view(1, 1, 1, 4)
    result = amplified_difference(clean, poisoned.to(torch.uint8))
    assert result[0, 0, 0].tolist() == [128, 144, 80, 255]


def test_png_pictures_are_exact() -> None:
    image = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    exact = picture(image, "noise", exact=True)
    np.testing.assert_array_equal(decode(exact.source), image.numpy())
    assert picture(image, "noise").source.startswith("data:image/webp;base64,")
    assert (
        decode(picture(torch.zeros(3, 200, 200, dtype=torch.uint8), "", 96).source).shape[1] == 96
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (754, "12 min 34 s"), (7325, "2 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_pictures_of_a_poison_without_images_are_shown(page: Page) -> None:
    strip = Strip((picture(torch.zeros(3, 8, 8, dtype=torch.uint8), "a"),))
    behind = Evidence({("ea", "nominal"): {"c0": strip}}, class_words={"c0": "vase"})
    part = replace(page.sections[0], evidence=behind)
    parsed = Parsed(render_page(Page("t", [part])))
    assert [image.get("alt") for image in parsed.images if "src" in image] == ["a"]
    assert "EA" in parsed.text


def paper_section(number: int) -> Section:
    rows = [
        Row(f"c{c}", poison, defense, "textual inversion", "mini", 0, metric, value + c / 50, 6, 5)
        for poison, value in (("clean", 0.5), ("adm+", 0.1), ("ea", 0.2))
        for defense in ("nominal", "jpeg", "szt")
        for c in range(3)
        for metric in ("instance_similarity", "clip_score")
    ]
    papers = same_runs(number)
    notes = paper_notes(papers)
    return Section(f"table{number}", f"Table {number}", rows, papers=papers, notes=notes)


def test_the_papers_number_stands_beside_ours_and_of_sibling_tables_too() -> None:
    text = render_page(Page("t", [paper_section(17)]))
    shown = re.findall(r'class="paper">paper ([\d.]+)', text)
    assert set(same_runs(17)) == {
        "instance_similarity",
        "frechet",
        "clip_score",
        "fid",
        "clip_score_token",
    }
    every = [*published(17).values.values(), *published(19).values.values()]
    assert len(shown) == len(every)
    assert f"paper {published(17).values['adm+', 'szt']:.2f}" in text


def test_the_mean_over_poisons_has_ours_and_the_papers_number() -> None:
    first = paper_section(17).tables[0]
    ours = [first.cells[poison, "szt"].interval.mean for poison in ("adm+", "ea")]
    assert first.cells[AVERAGE, "szt"].interval.mean == pytest.approx(sum(ours) / 2)
    assert first.paper[AVERAGE, "szt"] == 0.45


def test_corrected_labels_are_said_on_the_page() -> None:
    assert "corrected labels" in render_page(Page("t", [paper_section(12)]))
    assert "corrected labels" not in render_page(Page("t", [paper_section(17)]))


def write_images(place: Path, **changes: object) -> Path:
    """An image folder with one image of a run of which ``changes`` says what is its own."""
    cell = {"concept": "toy", "poison": "clean", "defense": "szt", "method": "m", "model": "mini"}
    record = {**cell, "seed": 0, "class_word": "toy", "placeholder": "<c>", **changes}
    place.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / "00-0.png")
    record["images"] = [{"file": "00-0.png", "prompt": "a toy"}]
    (place / "images.json").write_text(json.dumps(record))
    return place


def test_a_hidden_parent_hides_nothing_and_a_hidden_folder_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "runs"
    for seed, name in enumerate(("b", "a/deep", ".partial-1")):
        write_images(folder / name, seed=seed)
    assert image_folders(folder) == [folder / "a/deep", folder / "b"]
    roundabout = folder / "b" / ".."
    assert image_folders(roundabout) == [roundabout / "a/deep", roundabout / "b"]


def test_two_results_of_one_run_are_not_mixed(tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "a"), write_images(tmp_path / "b")
    with pytest.raises(UserError) as error:
        image_folders(tmp_path)
    assert all(text in str(error.value) for text in ("toy,clean,szt,0", str(first), str(second)))


def test_a_concept_whose_name_is_no_utf_8_has_rows_tables_and_a_page(
    rows: list[Row], tmp_path: Path
) -> None:
    odd = [replace(row, concept=f"{row.concept}\udcff") for row in rows]
    page = write_results(tmp_path, {"title": "toy\udcff"}, odd)
    assert read_rows(tmp_path / "rows.jsonl") == odd
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8").count("c0?,") == len(odd) // 6
    assert "<h1>toy?</h1>" in page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "summary.json").read_bytes())["failed"] == {}


def test_the_page_says_on_which_model_poisons_were_made(rows: list[Row], tmp_path: Path) -> None:
    def text(shown: list[Row]) -> str:
        return Parsed(render_page(Page("t", sections(tmp_path, {}, shown)))).text

    carried = [replace(row, poison_model="mini-v" * (row.poison == "adm+")) for row in rows]
    assert "White box: the poisons were made on the model that was personalized." in text(rows)
    assert "Carried over: the poisons were made on mini-v and met by mini." in text(carried)
    ea = [replace(row, poison="ea") for row in rows if row.poison == "adm+"]
    assert "met by mini, some; the others are white box." in text([*carried, *ea])
    clean = text([row for row in rows if row.poison == "clean"])
    assert "White box" not in clean and "Carried over" not in clean


@pytest.mark.parametrize(("model", "made_on"), [("mini", ""), ("mini-v", "mini-v"), (None, "")])
def test_the_model_of_a_poison_is_read_from_its_manifest(
    tmp_path: Path, model: str | None, made_on: str
) -> None:
    training = tmp_path / "poisoned"
    training.mkdir()
    if model is not None:
        (training / "manifest.json").write_text(json.dumps({"poison": "ea", "model": model}))
    place = write_images(tmp_path / "images", poison="ea", training="../poisoned")
    assert read_run_images(place).poison_model() == made_on
    clean = write_images(tmp_path / "clean", training="../poisoned")
    assert read_run_images(clean).poison_model() == ""


def test_a_page_is_written_where_the_terminal_knows_ascii_alone(
    rows: list[Row], tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    write_results(folder, {"title": "Träger"}, rows)
    (folder / "index.json").write_text(json.dumps({"title": "Träger"}))
    code = "import sys; from safezone.cli import main; sys.exit(main())"
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*(sys.executable, "-c", code), "report", str(folder / ".." / "runs")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "<h1>Träger</h1>" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_picture_that_does_not_lie_in_its_folder_is_refused(tmp_path: Path) -> None:
    place = write_images(tmp_path / "images")
    (tmp_path / "private.png").write_bytes((place / "00-0.png").read_bytes())
    record = json.loads((place / "images.json").read_text())
    record["images"][0]["file"] = "../private.png"
    (place / "images.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=r"names '\.\./private\.png', which is not a file beside it"
    ):
        read_run_images(place)


def test_the_command_of_a_cell_runs_that_cell_alone() -> None:
    whole = "safezone grid run table17 --only adm+ --only=ea --seeds 1 --name part --model mini"
    command = _command(Section("cells", "Cells", [], command=whole), "adm+", "szt")
    assert command == (
        "safezone grid run table17 --seeds 1 --model mini --only adm+ --only szt --name adm+,szt"
    )
