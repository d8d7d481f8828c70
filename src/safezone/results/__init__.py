"""Rows and pictures to tables and to one self-contained page."""

from safezone.results.html import ConceptPanel, Generated, Report, render_html, render_report
from safezone.results.meaning import meaning_sentences
from safezone.results.tables import (
    ScoreTable,
    score_table,
    to_csv,
    to_latex,
    to_markdown,
    write_table,
)

__all__ = [
    "ConceptPanel",
    "Generated",
    "Report",
    "ScoreTable",
    "meaning_sentences",
    "render_html",
    "render_report",
    "score_table",
    "to_csv",
    "to_latex",
    "to_markdown",
    "write_table",
]
