"""Rows and pictures to tables and to one self-contained page."""

from safezone.report.html import ConceptPanel, Generated, Report, render_html, render_report
from safezone.report.meaning import meaning_sentences
from safezone.report.tables import (
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
