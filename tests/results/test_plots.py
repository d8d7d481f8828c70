"""The figures of a grid's page: every value has a place, and the drawing says which."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from safezone.paper.named import PAPER
from safezone.results.comparisons import with_average
from safezone.results.grid_page import Section, render_grid_page
from safezone.results.plots import PANEL, PLANE, Plots, plots
from safezone.results.published import AVERAGE, published
from safezone.results.tables import score_table
from safezone.scores import Row

METRIC = "instance_similarity"
Columns = Sequence[str]


def rows(columns: Columns, poisons: Columns, concepts: int = 3) -> list[Row]:
    """Similarity that grows with the column and falls with the poison; CLIP scores the reverse."""
    found = []
    for p, poison in enumerate(poisons):
        for d, column in enumerate(columns):
            for c in range(concepts):
                value = 0.4 - 0.1 * p + 0.01 * d + 0.02 * c
                cell = (f"c{c}", poison, column, "textual inversion", "mini", 0)
                found.append(Row(*cell, METRIC, value, 6, 5))
                found.append(Row(*cell, "clip_score", 1 - value, 6, 0))
                found.append(Row(*cell, "frechet", 9 - value, 6, 5))
    return found


def drawn(number: int | None, columns: Columns, poisons: Columns, metric: str = METRIC) -> Plots:
    whole = with_average(rows(columns, poisons), AVERAGE)
    paper = None if number is None else published(number).values
    return plots(score_table(whole, metric, paper), score_table(whole, "clip_score"))


def test_defenses_have_a_chart_for_each_poison_with_the_papers_numbers() -> None:
    paper = published(17)
    made = drawn(17, paper.columns, [p for p in paper.poisons if p != AVERAGE])
    assert [chart.poison for chart in made.charts] == list(paper.poisons)
    assert not made.panels
    assert made.paper
    marks = {m.defense: m for m in made.charts[1].marks}
    assert list(marks) == list(paper.columns)
    assert all(m.low <= m.place <= m.high and m.has_interval for m in marks.values())
    tick = dict(made.charts[1].ticks)
    unit = (tick[0.4] - tick[0.2]) / 0.2
    szt = marks["szt"].paper
    assert szt is not None
    assert szt == pytest.approx(tick[0.2] + unit * (paper.values["adm+", "szt"] - 0.2), abs=0.01)


def test_distances_of_other_features_do_not_stand_beside_the_papers() -> None:
    paper = published(18)
    made = drawn(18, paper.columns, ("clean", "adm+", "ea"), "frechet")
    assert not made.paper
    assert all(mark.paper is None for chart in made.charts for mark in chart.marks)


def test_clip_scores_stand_beside_the_papers_only_where_they_overlap() -> None:
    paper = published(19)
    whole = with_average(rows(paper.columns, ("clean", "adm+", "ea")), AVERAGE)
    for factor, shown in ((0.7, True), (2.0, False)):
        ours = [
            replace(row, value=factor * row.value) for row in whole if row.metric == "clip_score"
        ]
        assert plots(score_table(ours, "clip_score", paper.values), None).paper == shown


def test_timestep_distributions_are_curves_by_family() -> None:
    paper = published(6)
    made = drawn(6, paper.columns, paper.poisons[:4])
    assert not made.charts
    assert len(made.panels) == 4
    names = {p.title: [name for _, name in p.names] for p in made.panels}
    assert names["tanh, steepness x"] == ["1", "3", "5", "10"]
    assert names["power, exponent x"] == ["0.25", "0.5", "1", "2", "4"]
    assert sum(len(xs) for xs in names.values()) == len(paper.columns) - 1  # Nominal is a level
    left, right, top, bottom = PANEL
    for panel in made.panels:
        assert [line.look.name for line in panel.lines] == ["Clean", "ADM+", "ADM-", "EA"]
        for line in panel.lines:
            assert line.level is not None
            assert len(line.dots) == len(panel.names)
            assert all(left < dot.x < right and top <= dot.y <= bottom for dot in line.dots)
            assert all(dot.high <= dot.y <= dot.low and dot.paper is not None for dot in line.dots)
    assert len({look.color for look in made.legend}) == 4


def test_many_defenses_that_are_no_settings_are_all_there() -> None:
    names = ("nominal", "t500", "t600", "szt", *(f"jpeg{quality}" for quality in range(10, 90, 5)))
    made = drawn(None, names, ("clean", "adm+", "ea"))
    assert not made.panels
    assert [mark.defense for mark in made.charts[0].marks] == list(names)
    assert made.plane is not None


def test_settings_of_the_training_have_a_panel_for_each_poison_and_schedule() -> None:
    paper = published(2)
    made = drawn(2, paper.columns, ("clean", "adm+"))
    assert [panel.title for panel in made.panels][:4] == [
        *("Clean, constant", "Clean, linear", "Clean, cosine", "ADM+, constant")
    ]
    for panel in made.panels:
        assert panel.along == "lr"
        assert [name for _, name in panel.names] == ["5e-5", "5e-4", "5e-3"]
        assert [line.look.name for line in panel.lines] == ["steps 1k", "steps 5k", "steps 10k"]
    assert sum(len(line.dots) for panel in made.panels for line in panel.lines) == 2 * 27


def test_the_plane_has_a_point_for_each_defense_and_names_that_can_be_told_apart() -> None:
    paper = published(1)
    made = drawn(1, paper.columns, ("clean", "adm+", "ea")).plane
    assert made is not None
    left, right, top, bottom = PLANE
    assert len(made.points) == len(paper.columns)
    for point in made.points:
        assert left <= point.x <= right and top <= point.y <= bottom
        assert point.spread[0] <= point.x <= point.spread[1]
    by_x = sorted(made.points, key=lambda point: point.x)
    assert [p.y for p in by_x] == sorted(p.y for p in by_x)  # more similarity, less CLIP score
    assert len({point.text for point in made.points}) == len(made.points)
    # one poison alone has no mean over poisons
    assert drawn(None, ("nominal", "szt"), ("clean", "adm+")).plane is None


@pytest.mark.parametrize("name", ["table2", "table6", "table12", "table17", "figure8", "figure5"])
def test_every_kind_of_page_has_a_figure_with_text(name: str) -> None:
    from safezone.lab.run import Scope
    from safezone.lab.variants import column_of

    runs = PAPER[name].build(Scope("mini", ("c",), (0,))).runs
    columns = list(dict.fromkeys(column_of(run.method, run.defense)[1] for run in runs))
    poisons = list(dict.fromkeys(run.poison for run in runs))
    text = render_grid_page(name, [Section(name, name, rows(columns, poisons, 1), METRIC)], {})
    drawings = re.findall(r'<svg class="plot.*?</svg>', text, re.S)
    assert drawings
    assert all("aria-label=" in each and re.search(r"<text[^>]*>\w", each) for each in drawings)
    assert not re.search(r"(?:nan|inf)\b", "".join(drawings))
