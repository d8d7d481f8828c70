"""Rows and a page with known contents."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from safezone.results.artifacts import Evidence, Strip, picture, training_pictures
from safezone.results.page import Page, Section
from safezone.scores.rows import Row

Means = Mapping[tuple[str, str], float]

PAPER: Means = {
    ("adm+", "nominal"): 0.05,
    ("adm+", "t600"): 0.50,
    ("adm+", "szt"): 0.505,
    ("clean", "szt"): 0.52,
    ("clean", "t600"): 0.5,
    ("clean", "nominal"): 0.45,
}


def make_rows(means: Means, concepts: int = 6, seeds: int = 2, noise: float = 0.02) -> list[Row]:
    """Instance similarity around ``means`` with concepts' offsets and run noise."""
    generator = torch.Generator().manual_seed(0)
    offsets = 0.03 * torch.randn(concepts, generator=generator)
    rows = []
    for (poison, defense), mean in means.items():
        for concept, offset in enumerate(offsets.tolist()):
            for seed in range(seeds):
                value = mean + offset + noise * float(torch.randn((), generator=generator))
                names = (f"c{concept}", poison, defense, "textual-inversion", "mini", seed)
                rows.append(Row(*names, "instance_similarity", value, 12, 5))
                rows.append(Row(*names, "clip_score", 0.6 + 0.2 * value, 12, 0))
                rows.append(Row(*names, "frechet", 9 - value, 12, 5))
    return rows


def pictures(count: int, seed: int) -> torch.Tensor:
    """Smooth pictures, each of its own colours, so that lossy coding leaves them apart."""
    generator = torch.Generator().manual_seed(seed)
    corners = 255 * torch.rand(count, 3, 2, 2, generator=generator)
    large = functional.interpolate(corners, size=(16, 16), mode="bilinear", align_corners=True)
    return large.round().to(torch.uint8)


KEYS = [("clean", "nominal"), ("clean", "szt"), ("adm+", "nominal"), ("adm+", "szt")]
PROMPTS = ["a photo of <c0> on grass", 'a "small" <c0> & co']
CLEAN_PICTURES, POISONED_PICTURES = pictures(3, 0), pictures(3, 1)


def generated(place: int) -> torch.Tensor:
    """The pictures of the cell at that place of ``KEYS``."""
    return pictures(2, 10 + place)


def known_page(rows: list[Row]) -> Page:
    """A page of one section with pictures of one concept."""
    strips = {
        key: {"c0": Strip(tuple(map(picture, generated(i), PROMPTS)), "4 vectors of 128")}
        for i, key in enumerate(KEYS)
    }
    training = {
        ("c0", "clean"): training_pictures(CLEAN_PICTURES, CLEAN_PICTURES, "c0"),
        ("c0", "adm+"): training_pictures(CLEAN_PICTURES, POISONED_PICTURES, "c0"),
    }
    section = Section(
        name="demo",
        title="Two <poisons> & defenses",
        rows=rows,
        evidence=Evidence(strips, training, {}, {"c0": "vase"}),
        notes=["Small <b>models</b> only."],
        settings={"steps": 400, "model": "mini"},
        command="safezone demo --out 'a & b'",
        duration=1267.4,
        open=True,
    )
    return Page(section.title, [section], rows, {"torch": "2.13.0"})
