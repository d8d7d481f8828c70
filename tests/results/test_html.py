"""The page is whole: every picture and number, well-formed, nothing from outside."""

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safezone.results import ConceptPanel, Generated, Report, render_html, render_report
from safezone.results.html import amplified_difference, data_uri, duration_text
from safezone.scores.rows import Row, csv_text

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
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


def test_tags_are_closed_and_ids_are_unique(report: Report) -> None:
    page = Page(render_html(report))
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)


def test_nothing_is_fetched(report: Report) -> None:
    text = render_html(report)
    assert not re.search(r"https?:|@import|url\(|[\"'(]//", text)
    assert all(link.startswith(("data:", "#")) for link in Page(text).links)


def test_every_picture_is_there(report: Report) -> None:
    images = Page(render_html(report)).images
    shown = [decode(image["src"] or "") for image in images if "src" in image]
    panel = report.concepts[0]
    for image in [*panel.clean, *panel.poisoned["adm+"]]:
        assert any(np.array_equal(image.numpy(), other) for other in shown)
    generated = [image for made in panel.generated.values() for image in made.images]
    assert len(shown) == 3 + 3 + 3 + len(generated)
    for image in generated:  # lossy: nearest picture is this one's
        errors = [np.abs(image.numpy().astype(int) - other).mean() for other in shown]
        assert min(errors) < 4 and sorted(errors)[1] > 8


def test_every_generated_picture_carries_its_prompt(report: Report) -> None:
    alts = [image["alt"] for image in Page(render_html(report)).images]
    assert alts.count('a "small" <c0> & co') == 4
    assert alts.count("a photo of <c0> on grass") == 4


def test_text_is_escaped_and_there(report: Report) -> None:
    page = Page(render_html(report))
    for text in (
        report.title,
        "First one. Second one. Third one.",
        "Small <b>models</b> only.",
        report.command,
        "21 min 7 s",
        "6 concepts and 12 runs a cell, 12 generated, 5 reference images a run",
        "400",
        "2.13.0",
    ):
        assert text in page.text


def test_ties_are_shown_as_ties(report: Report) -> None:
    text = render_html(report)
    assert 'class="badge tied"' in text
    assert text.count("not shown to be worse than the best of this poison") >= 4


def test_the_rows_can_be_taken_along(report: Report) -> None:
    (uri,) = [link for link in Page(render_html(report)).links if link.startswith("data:text/csv")]
    assert base64.b64decode(uri.split(",", 1)[1]).decode() == csv_text(report.rows)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"concepts": []},
        {"rows": [], "concepts": [], "caveats": [], "settings": {}, "duration": None},
    ],
)
def test_a_report_may_lack_parts(report: Report, change: dict[str, object]) -> None:
    assert Page(render_html(replace(report, **change))).open == []  # type: ignore[arg-type]


def test_one_concept_and_seed_has_no_interval(report: Report) -> None:
    single = [row for row in report.rows if (row.concept, row.seed) == ("c0", 0)]
    page = Page(render_html(replace(report, rows=single)))
    assert "1 concept and 1 run a cell" in page.text
    assert "nan" not in page.text.lower()


def test_models_get_their_own_results(report: Report) -> None:
    others = [replace(row, model="stable") for row in report.rows]
    page = Page(render_html(replace(report, rows=[*report.rows, *others])))
    assert page.open == []
    assert page.text.count("What it means") == 2
    assert "textual-inversion on stable" in page.text


def test_a_metric_without_a_direction_is_shown_without_ranks(report: Report) -> None:
    mine = [replace(row, metric="my_metric") for row in report.rows if row.metric == "frechet"]
    text = render_html(replace(report, rows=mine))
    assert "my_metric" in text and 'title="not shown to be worse' not in text


def test_other_methods_do_not_mix_into_a_concept_s_score(report: Report) -> None:
    others = [replace(row, method="lora", value=9.0) for row in report.rows]
    html = render_html(replace(report, rows=[*report.rows, *others]))
    assert '<span class="score">9.00' not in html


def test_the_file_is_replaced_whole(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = replace(report, settings={"bad": "\ud800"})
    with pytest.raises(UnicodeEncodeError):
        render_report(broken, path)
    assert path.read_text() == "old"
    render_report(report, path)
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert list(tmp_path.iterdir()) == [path]


def test_prompts_belong_to_images() -> None:
    with pytest.raises(ValueError, match="2 images and 1 prompts"):
        Generated(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["a"])


def test_perturbations_are_amplified_around_grey() -> None:
    clean = torch.tensor([10, 10, 10, 200], dtype=torch.uint8).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    poisoned = clean + torch.tensor([0, 2, 250 - 256, 16], dtype=torch.int16).view(1, 1, 1, 4)
    result = amplified_difference(clean, poisoned.to(torch.uint8))
    assert result[0, 0, 0].tolist() == [128, 144, 80, 255]


def test_png_pictures_are_exact() -> None:
    image = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    np.testing.assert_array_equal(decode(data_uri(image)), image.numpy())
    assert data_uri(image, lossless=False).startswith("data:image/webp;base64,")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (754, "12 min 34 s"), (7325, "2 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_pictures_of_a_poison_without_images_are_shown(rows: list[Row]) -> None:
    made = Generated(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"])
    panel = ConceptPanel("c0", "vase", made.images, {}, {("ea", "nominal"): made})
    assert len(Page(render_html(Report("t", [], [panel], rows))).images) == 3


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_has_nothing_to_complain_about(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    render_report(report, path)
    done = subprocess.run(
        [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<img") == len(Page(render_html(report)).images)
