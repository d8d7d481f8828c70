"""Methods with settings in their name: ``textual inversion; schedule=linear; lr=5e-4; steps=1k``.

The settings are the paper's, for its 5000 steps at 5e-4; a model whose preset differs has them
scaled alike, so that ``steps=1k`` is a fifth of the preset's steps and ``lr=5e-3`` ten times its
learning rate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Final, cast, get_args

from safezone.errors import UserError
from safezone.lab.presets import kind_of, training_preset
from safezone.lab.run import TEXTUAL_INVERSION
from safezone.lab.training import Schedule, Training
from safezone.personalize import METHODS
from safezone.scores.rows import NOMINAL, Row

CUSTOM_DIFFUSION_CROP: Final = "custom diffusion crop"

METHOD_NAMES: Final[Mapping[str, str]] = {
    **{kind.name: key for key, kind in METHODS.items()},
    CUSTOM_DIFFUSION_CROP: "custom-diffusion",
}
"""What rows and grids call each method, and what the settings call it."""

PAPER_STEPS: Final = 5000
PAPER_LEARNING_RATE: Final = 5e-4
_NAMES: Final = ("schedule", "lr", "steps")
_SCHEDULES: Final = get_args(Schedule)


def hyperparameter_methods() -> tuple[str, ...]:
    """The 27 columns of table 2, in its order."""
    return tuple(
        f"{TEXTUAL_INVERSION}; schedule={schedule}; lr={rate}; steps={steps}"
        for steps, schedule, rate in product(
            ("1k", "5k", "10k"), _SCHEDULES, ("5e-5", "5e-4", "5e-3")
        )
    )


def split_method(name: str) -> tuple[str, Mapping[str, str]]:
    """The method's own name and the settings behind it; UserError for text that is neither."""
    base, *parts = (part.strip() for part in name.split(";"))
    settings = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key not in _NAMES:
            raise UserError(
                f"The method {name!r} has the setting {part!r}; write {', '.join(_NAMES)} as "
                "schedule=linear; lr=5e-4; steps=1k."
            )
        if key in settings:
            raise UserError(f"The method {name!r} has {key} twice; remove one.")
        settings[key] = value
    return base, settings


def spelled(name: str) -> str:
    """The name with its spaces as ``hyperparameter_methods`` has them: one method, one name."""
    return "; ".join(part.strip() for part in name.split(";"))


def setting_of(name: str) -> str:
    """The settings as the paper's column, ``schedule=linear;lr=5e-4;steps=1k``; empty for none."""
    return ";".join(f"{key}={value}" for key, value in split_method(name)[1].items())


def _number(text: str, method: str) -> float:
    factor = 1000.0 if text.endswith("k") else 1.0
    try:
        value = factor * float(text.removesuffix("k"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"The method {method!r} has {text!r} where a number above 0 must be.")
    return value


def training_of(base: Training, method: str, model: str) -> Training:
    """``base`` with the settings of the method's name, or the preset of a method that base is not,
    run on the machine as base is.

    ``model``: the name or folder whose kind chooses that preset.

    Raises UserError for a method that the stages cannot train and for wrong settings.
    """
    name, settings = split_method(method)
    if name not in METHOD_NAMES:
        raise UserError(f"There is no method {name!r}; choose from {', '.join(METHOD_NAMES)}.")
    if base.method != METHOD_NAMES[name]:
        base = training_preset(kind_of(model), METHOD_NAMES[name]).on_machine_of(base)
    result = replace(base, crop_rescale=True) if name == CUSTOM_DIFFUSION_CROP else base
    if "schedule" in settings:
        if settings["schedule"] not in _SCHEDULES:
            known = ", ".join(_SCHEDULES)
            raise UserError(f"The method {method!r} has an unknown schedule; choose from {known}.")
        result = replace(result, schedule=cast(Schedule, settings["schedule"]))
    if "lr" in settings:
        factor = _number(settings["lr"], method) / PAPER_LEARNING_RATE
        result = replace(result, learning_rate=base.learning_rate * factor)
    if "steps" in settings:
        steps = round(base.steps * _number(settings["steps"], method) / PAPER_STEPS)
        result = replace(result, steps=max(1, steps))
    return result


def columns_of(rows: Sequence[Row]) -> list[Row]:
    """Variants of a method as columns: what its name says of settings takes the defense's place."""
    columns = (column_of(row.method, row.defense) for row in rows)
    pairs = zip(rows, columns, strict=True)
    return [replace(row, method=method, defense=name) for row, (method, name) in pairs]


def column_of(method: str, defense: str) -> tuple[str, str]:
    """(method, column) of a run; see ``columns_of``."""
    setting = setting_of(method)
    if not setting:
        return method, defense
    return split_method(method)[0], setting if defense == NOMINAL else f"{defense}; {setting}"
