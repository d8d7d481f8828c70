"""The table of poisons; a new one is a row (docs/adding-a-poison.md)."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from safezone.defenses.loss_masks import LossMask
from safezone.defenses.timesteps import AtLeast
from safezone.errors import UserError
from safezone.poisons.objectives import (
    EncoderShift,
    Fused,
    TargetPrediction,
    denoising_loss,
    encoder_distance,
    encoder_norm,
    first_step_norm,
    score_distillation,
)
from safezone.poisons.row import Poison
from safezone.poisons.sampling import SampledDistance
from safezone.poisons.surrogate import Surrogate
from safezone.poisons.timestep_search import GreedyTimesteps
from safezone.poisons.transforms import DifferentiableJpeg

# The paper's six (Table 3). DA's step and repetitions are those of the released l-infinity variant
# (0.006 in [-1, 1]), its budget the paper's.
_ADM_UP = Poison("adm+", denoising_loss, +1)
_ADM_DOWN = Poison("adm-", denoising_loss, -1)
_SDS_UP = Poison("sds+", score_distillation, +1, start="zero")
_SDS_DOWN = Poison("sds-", score_distillation, -1, start="zero")
_EA = Poison("ea", encoder_distance, -1, prompt="")
_DA = Poison(
    "da", SampledDistance(), +1,
    eta=0.003, steps=200, start="zero", prompt="", target="grey", repetitions=5,
)  # fmt: skip

# What Safe-Zone Training does, known to the poison: JPEG around quality 25, t >= 500, the mask
# dilated by 16 px at 512.
_JPEG = DifferentiableJpeg(20, 30)
_HIGH = AtLeast(0.5)
_MASK = LossMask(dilation_px_at_512=16)

_ROWS = (
    _ADM_UP,
    _ADM_DOWN,
    _SDS_UP,
    _SDS_DOWN,
    _EA,
    _DA,
    # Adaptive: <poison>@<what of Safe-Zone Training it knows>.
    replace(_ADM_UP, name="adm+@jpeg", transform=_JPEG),
    replace(_ADM_UP, name="adm+@t500", timesteps=_HIGH),
    replace(_ADM_UP, name="adm+@lm", mask=_MASK),
    replace(_ADM_UP, name="adm+@szt", transform=_JPEG, timesteps=_HIGH, mask=_MASK),
    replace(_SDS_DOWN, name="sds-@jpeg", transform=_JPEG),
    replace(_SDS_DOWN, name="sds-@t500", timesteps=_HIGH),
    replace(_SDS_DOWN, name="sds-@lm", mask=_MASK),
    replace(_SDS_DOWN, name="sds-@szt", transform=_JPEG, timesteps=_HIGH, mask=_MASK),
    # EA asks no timestep, so that it can know the other two only.
    replace(_EA, name="ea@jpeg", transform=_JPEG),
    replace(_EA, name="ea@lm", mask=_MASK),
    replace(_EA, name="ea@szt", transform=_JPEG, mask=_MASK),
    # After the paper's six, or beside them.
    replace(_DA, name="da-target", objective=SampledDistance("target"), direction=-1),
    Poison("mist", Fused(), -1, prompt="a painting"),
    Poison("photoguard", encoder_norm, -1, decay="linear", prompt="", target="grey"),
    Poison("ace", TargetPrediction(), -1),
    Poison("ace+", TargetPrediction(encoder=100.0), -1),
    Poison("pid", EncoderShift(), +1, prompt=""),
    replace(_ADM_UP, name="simac", timesteps=GreedyTimesteps()),
    Poison("diffusionguard", first_step_norm, +1, prompt=""),
    replace(_ADM_UP, name="aspl", prompt="a photo of a {}", surrogate=Surrogate()),
)

POISONS: Mapping[str, Poison] = MappingProxyType({row.name: row for row in _ROWS})


def poison(name: str, own: Mapping[str, Poison] = MappingProxyType({})) -> Poison:
    """The poison of that name, in any case, of the table or of ``own`` rows beside it.

    Raises UserError listing near names.
    """
    key, rows = name.strip().lower(), {**POISONS, **own}
    if key in rows:
        return rows[key]
    near = difflib.get_close_matches(key, rows, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(rows)}."
    raise UserError(f"There is no poison {name!r}; {hint}")
