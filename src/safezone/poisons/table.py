"""The table of poisons; a new one is a row (docs/adding-a-poison.md)."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safezone.defenses.loss_masks import LossMask
from safezone.defenses.timesteps import AtLeast
from safezone.errors import UserError
from safezone.poisons.guide import ModelObjective, NetworkObjective
from safezone.poisons.objectives import (
    EncoderShift,
    Fused,
    SampledDistance,
    TargetPrediction,
    denoising_loss,
    encoder_distance,
    encoder_norm,
    first_step_norm,
    score_distillation,
)
from safezone.poisons.rounds import GreedyTimesteps, Surrogate
from safezone.poisons.row import Poison
from safezone.poisons.transforms import DifferentiableJpeg, NaturalSpectrum
from safezone.reading import own_rows

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
_SZT: Mapping[str, Any] = MappingProxyType(
    {
        "transform": DifferentiableJpeg(20, 30),
        "timesteps": AtLeast(0.5),
        "mask": LossMask(dilation_px_at_512=16),
    }
)

MODIFIERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "jpeg": {"transform": _SZT["transform"]},
        "t500": {"timesteps": _SZT["timesteps"]},
        "lm": {"mask": _SZT["mask"]},
        "szt": _SZT,
        # What poisons after the paper do against defenses that they do not know: noise with a
        # natural spectrum (BlurGuard), high-noise timesteps only (DeContext).
        "blur": {"shaping": NaturalSpectrum()},
        "high": {"timesteps": AtLeast(0.8)},
    }
)
"""What ``<poison>@<modifier>`` changes; several may follow each other, as in ``adm+@blur@high``."""

_UNREAD: Mapping[str, Sequence[ModelObjective]] = MappingProxyType(
    {
        "timesteps": (encoder_distance, encoder_norm, first_step_norm),
        "prompt": (encoder_distance, encoder_norm),
        "target": (denoising_loss, score_distillation, first_step_norm),
    }
)


def reads(objective: ModelObjective | NetworkObjective, part: str) -> bool:
    """Whether an objective looks at a poison's ``timesteps``, ``prompt`` or ``target``, so that one
    can be chosen for it; a user's own looks at all of them."""
    if isinstance(objective, EncoderShift):
        return False
    if isinstance(objective, SampledDistance):
        return part == "prompt" or (part == "target" and objective.reference == "target")
    return objective not in _UNREAD[part]


def modified(row: Poison, modifiers: Sequence[str]) -> Poison:
    """The poison with what its modifiers change, under the joint name.

    Raises UserError for an unknown modifier, for one of what the poison or another modifier chooses
    already, and where there is nothing to change.
    """
    timeless = not reads(row.objective, "timesteps")
    for name in modifiers:
        if name not in MODIFIERS:
            raise UserError(f"There is no modifier @{name}; choose from {', '.join(MODIFIERS)}.")
        own = {k: v for k, v in MODIFIERS[name].items() if not (timeless and k == "timesteps")}
        if not own:
            raise UserError(f"{row.name} draws no timestep, so that @{name} would change nothing.")
        if chosen := [k for k in own if getattr(row, k) != getattr(_ADM_UP, k)]:
            raise UserError(f"{row.name} chooses its {chosen[0]} already; leave @{name} out.")
        row = replace(row, name=f"{row.name}@{name}", **own)
    return row


_ROWS = (
    _ADM_UP,
    _ADM_DOWN,
    _SDS_UP,
    _SDS_DOWN,
    _EA,
    _DA,
    # Adaptive: <poison>@<what of Safe-Zone Training it knows>.
    *(modified(row, [m]) for row in (_ADM_UP, _SDS_DOWN) for m in ("jpeg", "t500", "lm", "szt")),
    *(modified(_EA, [m]) for m in ("jpeg", "lm", "szt")),
    *(modified(_ADM_UP, m) for m in (["blur"], ["high"])),
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

    ``<name>@<modifier>``, as in ``mist@blur``, is any of them as ``MODIFIERS`` change it. Raises
    UserError listing near names.
    """
    key, rows = name.strip().lower(), {**POISONS, **own}
    base, modifiers = key, list[str]()
    while base not in rows and "@" in base:
        base, _, last = base.rpartition("@")
        modifiers.insert(0, last)
    if base in rows:
        return modified(rows[base], modifiers)
    near = difflib.get_close_matches(key, rows, n=3, cutoff=0.4)
    mine = "" if own else ", or one of your own, which needs --poison-file"
    hint = (
        f"did you mean {' or '.join(near)}{mine}?"
        if near
        else f"choose from {', '.join(rows)}{mine}."
    )
    raise UserError(f"There is no poison {name!r}; {hint}")


def own_poisons(files: Iterable[Path]) -> Mapping[str, Poison]:
    """The rows of Python files of the user's, by name; see ``reading.own_rows``."""
    return own_rows(files, Poison, POISONS)
