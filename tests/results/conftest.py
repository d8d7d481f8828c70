"""Rows and a page with known contents."""

from collections.abc import Callable

import pytest

from result_pages import PAPER, known_page, make_rows
from safezone.results.page import Page
from safezone.scores.rows import Row


@pytest.fixture
def rows() -> list[Row]:
    return make_rows(PAPER)


@pytest.fixture
def make() -> Callable[..., list[Row]]:
    return make_rows


@pytest.fixture
def page(rows: list[Row]) -> Page:
    return known_page(rows)
