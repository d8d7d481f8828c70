"""How well generated images show the concept: features, metrics, rows."""

from safezone.scores.instance import CachedEncoder, ImageEncoder
from safezone.scores.loading import load_encoder, load_text_image_encoder
from safezone.scores.rows import CLEAN, NOMINAL, Row, read_rows, summarise, write_rows
from safezone.scores.scoring import Encoders, score_images
from safezone.scores.slot import Metric, Pictures, Score, Slot
from safezone.scores.table import METRICS, SLOTS, metric_of
from safezone.scores.text_image import TextImageEncoder

__all__ = [
    "CLEAN",
    "METRICS",
    "NOMINAL",
    "SLOTS",
    "CachedEncoder",
    "Encoders",
    "ImageEncoder",
    "Metric",
    "Pictures",
    "Row",
    "Score",
    "Slot",
    "TextImageEncoder",
    "load_encoder",
    "load_text_image_encoder",
    "metric_of",
    "read_rows",
    "score_images",
    "summarise",
    "write_rows",
]
