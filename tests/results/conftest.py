"""Rows and a report with known contents."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch.nn import functional

from safezone.results import ConceptPanel, Generated, Report
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


@pytest.fixture
def rows() -> list[Row]:
    return make_rows(PAPER)


@pytest.fixture
def make() -> Callable[..., list[Row]]:
    return make_rows


def pictures(count: int, seed: int) -> torch.Tensor:
    """Smooth pictures, each of its own colours, so that lossy coding leaves them apart."""
    generator = torch.Generator().manual_seed(seed)
    corners = 255 * torch.rand(count, 3, 2, 2, generator=generator)
    large = functional.interpolate(corners, size=(16, 16), mode="bilinear", align_corners=True)
    return large.round().to(torch.uint8)


@pytest.fixture
def report(rows: list[Row]) -> Report:
    keys = [("clean", "nominal"), ("clean", "szt"), ("adm+", "nominal"), ("adm+", "szt")]
    prompts = ["a photo of <c0> on grass", 'a "small" <c0> & co']
    panel = ConceptPanel(
        "c0",
        "vase",
        pictures(3, 0),
        {"adm+": pictures(3, 1)},
        {key: Generated(pictures(2, 10 + i), prompts) for i, key in enumerate(keys)},
    )
    return Report(
        title="Two <poisons> & defenses",
        summary_sentences=["First one.", "Second one.", "Third one."],
        concepts=[panel],
        rows=rows,
        caveats=["Small <b>models</b> only."],
        settings={"steps": 400, "model": "mini"},
        command="safezone demo --out 'a & b'",
        versions={"torch": "2.13.0"},
        duration=1267.4,
    )
