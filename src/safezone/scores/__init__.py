"""How well generated images show the concept: features, metrics, rows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safezone.scores.encoders import CachedEncoder, ImageEncoder, Pictures, Score
    from safezone.scores.loading import load_encoder, load_text_image_encoder
    from safezone.scores.rows import CLEAN, NOMINAL, Row, read_rows, summarise, write_rows
    from safezone.scores.table import (
        METRICS,
        SLOTS,
        Encoders,
        Metric,
        Slot,
        metric_of,
        score_images,
    )

_HOMES = {
    **dict.fromkeys(("CachedEncoder", "ImageEncoder", "Pictures", "Score"), "encoders"),
    **dict.fromkeys(("load_encoder", "load_text_image_encoder"), "loading"),
    **dict.fromkeys(("CLEAN", "NOMINAL", "Row", "read_rows", "summarise", "write_rows"), "rows"),
    **dict.fromkeys(("Encoders", "Metric", "Slot", "METRICS", "SLOTS"), "table"),
    **dict.fromkeys(("metric_of", "score_images"), "table"),
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: the command line needs the table alone, at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
