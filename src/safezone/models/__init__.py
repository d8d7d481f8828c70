"""Latent diffusion models behind one protocol; ``load_model`` opens one."""

from safezone.models.base import Conditioning, Model, Posterior, Tokens
from safezone.models.builtin import BUILTIN, builtin_folder
from safezone.models.loading import load_model
from safezone.models.process import Epsilon, Process, RectifiedFlow, Velocity

__all__ = [
    "BUILTIN",
    "Conditioning",
    "Epsilon",
    "Model",
    "Posterior",
    "Process",
    "RectifiedFlow",
    "Tokens",
    "Velocity",
    "builtin_folder",
    "load_model",
]
