"""The drawings of a page: every value has a place, and the drawing says which."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from safezone.lab.run import Scope
from safezone.lab.variants import column_of
from safezone.paper.rows import PAPER
from safezone.results.comparisons import with_average
from safezone.results.drawings.charts import Charts, charts, interval_figures
from safezone.results.drawings.style import inline_svg, panels
from safezone.results.page import Page, Section, render_page
from safezone.results.published import AVERAGE, published
from safezone.results.tables import label, score_table
from safezone.scores import Row

METRIC = "instance_similarity"
Columns = Sequence[str]


def sweep(columns: Columns, poisons: Columns, concepts: int = 3) -> list[Row]:
    """Similarity that grows with the column and falls with the poison; CLIP scores the reverse."""
    result = []
    for p, poison in enumerate(poisons):
        for d, column in enumerate(columns):
            for c in range(concepts):
                value = 0.4 - 0.1 * p + 0.01 * d + 0.02 * c
                cell = (f"c{c}", poison, column, "textual inversion", "mini", 0)
                result.append(Row(*cell, METRIC, value, 6, 5))
                result.append(Row(*cell, "clip_score", 1 - value, 6, 0))
                result.append(Row(*cell, "frechet", 9 - value, 6, 5))
    return result


def drawn(number: int | None, columns: Columns, poisons: Columns, metric: str = METRIC) -> Charts:
    whole = with_average(sweep(columns, poisons), AVERAGE)
    paper = None if number is None else published(number).values
    return charts(score_table(whole, metric, paper), score_table(whole, "clip_score"))


def parts(figure: Any, gid: str) -> list[Any]:
    """The lines of a drawing with that gid, in order."""
    return [line for line in figure.axes[0].lines if line.get_gid() == gid]


def names(figure: Any, axis: str = "y") -> list[str]:
    return [text.get_text() for text in getattr(figure.axes[0], f"get_{axis}ticklabels")()]


def test_defenses_have_a_drawing_for_each_poison_with_the_papers_numbers() -> None:
    paper = published(17)
    made = drawn(17, paper.columns, [p for p in paper.poisons if p != AVERAGE])
    assert list(made.intervals) == [label(poison) for poison in paper.poisons]
    assert not made.curves
    assert made.paper
    figure = made.intervals["ADM+"]
    assert names(figure) == [label(name) for name in paper.columns]
    ours = [float(line.get_xdata()[0]) for line in parts(figure, "dot")]
    assert ours == pytest.approx([0.32 + 0.01 * d for d in range(len(paper.columns))])
    theirs = [float(line.get_xdata()[0]) for line in parts(figure, "hollow")]
    assert theirs == [paper.values["adm+", name] for name in paper.columns]
    for mean, bar in zip(ours, parts(figure, "interval"), strict=True):
        low, high = bar.get_xdata()
        assert low <= mean <= high
    assert len({figure.axes[0].get_xlim() for figure in made.intervals.values()}) == 1


def test_distances_of_other_features_do_not_stand_beside_the_papers() -> None:
    paper = published(18)
    made = drawn(18, paper.columns, ("clean", "adm+", "ea"), "frechet")
    assert not made.paper
    assert not any(parts(figure, "hollow") for figure in made.intervals.values())


def test_clip_scores_stand_beside_the_papers_only_where_they_overlap() -> None:
    paper = published(19)
    whole = with_average(sweep(paper.columns, ("clean", "adm+", "ea")), AVERAGE)
    for factor, shown in ((0.7, True), (2.0, False)):
        ours = [
            replace(row, value=factor * row.value) for row in whole if row.metric == "clip_score"
        ]
        assert charts(score_table(ours, "clip_score", paper.values), None).paper == shown


def test_dots_are_at_their_means_and_the_dashed_line_is_nominal_on_clean(rows: list[Row]) -> None:
    table = score_table(rows, METRIC)
    figures = interval_figures(table)
    assert list(figures) == ["Clean", "ADM+"]
    for poison, figure in zip(table.poisons, figures.values(), strict=True):
        means = [table.cells[poison, name].interval.mean for name in table.defenses]
        assert [float(line.get_xdata()[0]) for line in parts(figure, "dot")] == means
        (anchor,) = parts(figure, "reference")
        assert anchor.get_xdata()[0] == table.cells["clean", "nominal"].interval.mean


def test_a_very_wide_interval_is_cut_and_does_not_squeeze_the_means(rows: list[Row]) -> None:
    two = [row for row in rows if row.concept in ("c0", "c1")]
    wide = [replace(r, value=r.value + 0.3 * (r.concept == "c1")) for r in two]
    figures = interval_figures(score_table(wide, METRIC)).values()
    assert any(parts(figure, "cut") for figure in figures)
    places = [
        figure.axes[0].transAxes.inverted().transform(figure.axes[0].transData.transform((x, 0)))[0]
        for figure in figures
        for line in parts(figure, "dot")
        for x in line.get_xdata()
    ]
    assert max(places) - min(places) > 0.3
    for figure in figures:
        start, end = figure.axes[0].get_xlim()
        for bar in parts(figure, "interval"):
            assert start <= min(bar.get_xdata()) <= max(bar.get_xdata()) <= end


@pytest.mark.parametrize("scale", [1.0, 0.02, 90.0])
def test_ticks_are_round(rows: list[Row], scale: float) -> None:
    table = score_table([replace(row, value=scale * row.value) for row in rows], METRIC)
    for figure in interval_figures(table).values():
        start, end = figure.axes[0].get_xlim()
        ticks = [tick for tick in figure.axes[0].get_xticks() if start <= tick <= end]
        assert 2 <= len(ticks) <= 6
        step = ticks[1] - ticks[0]
        assert any(np.isclose(step / 10 ** np.floor(np.log10(step)), f) for f in (1, 2, 5, 10))
        assert np.allclose(np.array(ticks) / step, np.round(np.array(ticks) / step))


def test_timestep_distributions_are_curves_by_family() -> None:
    paper = published(6)
    made = drawn(6, paper.columns, paper.poisons[:4])
    assert not made.intervals
    assert len(made.curves) == 4
    xs = {title: names(figure, "x") for title, figure in made.curves.items()}
    assert xs["tanh, steepness x"] == ["1", "3", "5", "10"]
    assert xs["power, exponent x"] == ["0.25", "0.5", "1", "2", "4"]
    assert sum(map(len, xs.values())) == len(paper.columns) - 1  # Nominal is a level
    assert made.lines == ["Clean", "ADM+", "ADM-", "EA"]
    for title, figure in made.curves.items():
        lines = parts(figure, "curve")
        assert len(lines) == len(parts(figure, "level")) == 4
        assert len({line.get_color() for line in lines}) == 4
        assert all(len(line.get_xdata()) == len(xs[title]) for line in lines)
        assert len(parts(figure, "hollow")) == 4 * len(xs[title])
        start, end = figure.axes[0].get_ylim()
        assert all(start <= y <= end for line in lines for y in line.get_ydata())


def test_many_defenses_that_are_no_settings_are_all_there() -> None:
    columns = ("nominal", "t500", "t600", "szt", *(f"jpeg{q}" for q in range(10, 90, 5)))
    made = drawn(None, columns, ("clean", "adm+", "ea"))
    assert not made.curves
    assert names(made.intervals["Clean"]) == [label(name) for name in columns]
    assert made.plane is not None


def test_settings_of_the_training_have_a_panel_for_each_poison_and_schedule() -> None:
    paper = published(2)
    made = drawn(2, paper.columns, ("clean", "adm+"))
    assert list(made.curves)[:4] == [
        *("Clean, constant", "Clean, linear", "Clean, cosine", "ADM+, constant")
    ]
    assert made.lines == ["steps 1k", "steps 5k", "steps 10k"]
    for figure in made.curves.values():
        assert figure.axes[0].get_xlabel() == "lr"
        assert names(figure, "x") == ["5e-5", "5e-4", "5e-3"]
        assert len(parts(figure, "curve")) == 3
    points = [len(line.get_xdata()) for f in made.curves.values() for line in parts(f, "curve")]
    assert sum(points) == 2 * 27


def test_the_plane_has_a_point_for_each_defense_and_names_that_can_be_told_apart() -> None:
    paper = published(1)
    plane = drawn(1, paper.columns, ("clean", "adm+", "ea")).plane
    assert plane is not None
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in parts(plane, "dot")]
    assert len(points) == len(paper.columns)
    assert [y for _, y in sorted(points)] == sorted((y for _, y in points), reverse=True)
    texts: list[Any] = list(plane.axes[0].texts)
    assert [text.get_text() for text in texts] == [label(name) for name in paper.columns]
    boxes = [text.get_window_extent() for text in texts]
    apart = [not a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert sum(apart) >= 0.9 * len(apart)
    # one poison alone has no mean over poisons
    assert drawn(None, ("nominal", "szt"), ("clean", "adm+")).plane is None


@pytest.mark.parametrize("name", ["table2", "table6", "table12", "table17", "figure8", "figure5"])
def test_every_kind_of_page_has_drawings_with_text(name: str) -> None:
    runs = PAPER[name].build(Scope("mini", ("c",), (0,))).runs
    columns = list(dict.fromkeys(column_of(run.method, run.defense)[1] for run in runs))
    poisons = list(dict.fromkeys(run.poison for run in runs))
    text = render_page(Page(name, [Section(name, name, sweep(columns, poisons, 1))]))
    drawings = re.findall(r'<svg class="plot.*?</svg>', text, re.S)
    assert drawings
    assert all("aria-label=" in each and re.search(r"<text[^>]*>\w", each) for each in drawings)
    assert not re.search(r"(?:nan|inf)\b", "".join(drawings))
    ids = re.findall(r'id="([^"]+)"', "".join(drawings))
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'href="#([^"]+)"', "".join(drawings))) <= set(ids)


def test_a_dollar_in_a_name_is_no_mathematics() -> None:
    figure, ((axes,),) = panels(1, 1)
    axes.set_title("cost $5 and $6, $$, $a_$")
    assert "cost $5 and $6, $$, $a_$" in inline_svg(figure, "prices", "one")
