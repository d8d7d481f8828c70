"""Looks at folders of images, clean and poisoned, of any size.

usage: safezone analyze ANALYSIS [OPTIONS]

Writes a figure as SVG and PNG and its numbers as JSON. More in docs/analyses.md.

Example:
    safezone analyze histogram my-toy my-toy-poisoned --out analysis
    safezone analyze spectrum my-toy my-toy-poisoned --vae mini --out analysis
    safezone analyze timesteps my-toy my-toy-poisoned --prompt "a photo of a toy" --out analysis
    safezone analyze sensitivity my-toy --prompt "a photo of a toy" --word toy --out analysis

Analyses, each with --help:
"""

from collections.abc import Mapping
from typing import Final

VERBS: Final[Mapping[str, tuple[str, str]]] = {
    "histogram": (
        "analyze_folders.HISTOGRAM",
        "changes of pixels, before and after JPEG, and whether bimodal",
    ),
    "spectrum": (
        "analyze_folders.SPECTRUM",
        "radial power spectra of pixels, or of latents with --vae",
    ),
    "timesteps": ("analyze_timesteps.COMMAND", "loss, prediction and gradient by timestep"),
    "sensitivity": (
        "analyze_sensitivity.COMMAND",
        "where in the image a word of the prompt acts",
    ),
}
"""Where each analysis's command is, as ``MODULE.NAME``, and one line for the overview."""
