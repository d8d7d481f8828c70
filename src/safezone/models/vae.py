"""An autoencoder alone: to look at latents without a denoiser."""

from pathlib import Path
from typing import Any

import torch

from safezone.arrays import Images, Latents
from safezone.errors import UserError
from safezone.models.builtin import BUILTIN, builtin_folder
from safezone.models.frozen import freeze
from safezone.models.parts import find_folder, pick_device, quiet, read_config, read_part

_GIVE = "give mini, a diffusers folder, the folder of a VAE or a hub name owner/name"


class Autoencoder:
    """A frozen AutoencoderKL. ``factor``: pixels per latent cell along one side."""

    def __init__(self, name: str, vae: Any, device: torch.device) -> None:
        self.name, self.device = name, device
        self.factor = int(2 ** (len(vae.config.block_out_channels) - 1))
        freeze(vae.to(device))
        self._vae = vae

    @torch.no_grad()
    def mean_latents(self, images: Images) -> Latents:
        """The posterior's mean, scaled as the denoiser sees it, float32 on the CPU.

        ``images``: [batch, 3, height, width] in [0, 1], sides multiples of ``factor``.
        """
        config = self._vae.config
        mean: Latents = self._vae.encode((images * 2 - 1).to(self.device)).latent_dist.mean
        shift = float(getattr(config, "shift_factor", None) or 0.0)
        return ((mean - shift) * float(config.scaling_factor)).float().cpu()


def load_autoencoder(name_or_folder: str | Path, device: str | None = None) -> Autoencoder:
    """Opens the autoencoder of a built-in model, a diffusers folder, a VAE's own folder or the hub.

    Raises UserError for what cannot be opened. Only safetensors are read.
    """
    from diffusers import AutoencoderKL

    if isinstance(name_or_folder, str) and name_or_folder in BUILTIN:
        path = builtin_folder(name_or_folder)
    else:
        path = find_folder(name_or_folder, "model folder", _GIVE)
    folder = path if (path / "config.json").is_file() else path / "vae"
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} holds neither config.json nor vae/config.json; {_GIVE}")
    config = read_config(folder / "config.json")
    if config.get("_class_name") != "AutoencoderKL":
        raise UserError(f"{folder} holds a {config.get('_class_name')}; give an AutoencoderKL")
    with quiet():
        vae = read_part(AutoencoderKL, folder.parent, folder.name)
    return Autoencoder(str(name_or_folder), vae, pick_device(device))
