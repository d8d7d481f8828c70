"""Which kind of model a name or folder is, from the name or its small configuration files."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safezone.errors import UserError
from safezone.models.known import KNOWN, known_model

KINDS: Final = ("mini", "sd15", "sd15-rf", "sd21", "sdxl")

_TWINS: Final = ("mini-v", "mini-rf")


def kind_of(model: str) -> str:
    """One of ``KINDS``: a built-in model, a known name, or what a folder's files say.

    A name or a single file that tells nothing counts as ``sd15``. Reads no weights.
    """
    if model == "mini" or model in _TWINS:
        return "mini"
    if known := known_model(model):
        return known.preset
    folder = Path(model).expanduser()
    if (folder / "text_encoder_2").is_dir():
        return "sdxl"
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    index = _config(folder / "model_index.json")
    flow = f"{index.get('_class_name')} {scheduler.get('_class_name')}"
    if "RectifiedFlow" in flow or "FlowMatch" in flow:
        return "sd15-rf"
    if _config(folder / "unet" / "config.json").get("cross_attention_dim") == 1024:
        return "sd21"
    return "sd15"


def require_spelling(model: str) -> None:
    """Raises UserError for a name that nearly is one of ours, such as ``sd15-fr``."""
    known = ("mini", *_TWINS, *KNOWN)
    if model in known or known_model(model) or "/" in model or Path(model).expanduser().exists():
        return  # the hub has other names that are much like ours
    near = difflib.get_close_matches(model, known, n=1, cutoff=0.8)
    if near:
        raise UserError(f"there is no model {model!r}; did you mean {near[0]}?")


def _config(file: Path) -> Mapping[str, Any]:
    """What the file says; nothing where the loader will say what is wrong with it."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
