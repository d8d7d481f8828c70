"""How well generated images show the concept: features, metrics, rows."""

from safezone.scores.encoders import (
    CachedEncoder,
    ImageEncoder,
    TextImageEncoder,
)
from safezone.scores.loading import load_encoder, load_text_image_encoder
from safezone.scores.rows import CLEAN, NOMINAL, Row, read_rows, summarise, write_rows
from safezone.scores.scoring import METRICS, Score, score_images

__all__ = [
    "CLEAN",
    "METRICS",
    "NOMINAL",
    "CachedEncoder",
    "ImageEncoder",
    "Row",
    "Score",
    "TextImageEncoder",
    "load_encoder",
    "load_text_image_encoder",
    "read_rows",
    "score_images",
    "summarise",
    "write_rows",
]
