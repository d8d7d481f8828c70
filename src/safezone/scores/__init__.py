"""How well generated images show the concept: features, metrics, rows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safezone.scores.instance import CachedEncoder, ImageEncoder
    from safezone.scores.loading import load_encoder, load_text_image_encoder
    from safezone.scores.pictures import Pictures, Score
    from safezone.scores.rows import CLEAN, NOMINAL, Row, read_rows, summarise, write_rows
    from safezone.scores.scoring import Encoders, score_images
    from safezone.scores.slot import Metric, Slot
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

_HOMES = {
    **dict.fromkeys(("CachedEncoder", "ImageEncoder"), "instance"),
    **dict.fromkeys(("load_encoder", "load_text_image_encoder"), "loading"),
    **dict.fromkeys(("CLEAN", "NOMINAL", "Row", "read_rows", "summarise", "write_rows"), "rows"),
    **dict.fromkeys(("Encoders", "score_images"), "scoring"),
    **dict.fromkeys(("Pictures", "Score"), "pictures"),
    **dict.fromkeys(("Metric", "Slot"), "slot"),
    **dict.fromkeys(("METRICS", "SLOTS", "metric_of"), "table"),
    **dict.fromkeys(("TextImageEncoder",), "text_image"),
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: the command line needs the table alone, at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
