"""A YAML file over the preset of a model."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from safezone.errors import UserError
from safezone.fields import reason
from safezone.lab.kinds import kind_of, require_spelling
from safezone.lab.settings import Settings, preset
from safezone.lab.training import training_preset
from safezone.reading import read_yaml


def _merged(base: Mapping[str, Any], over: Mapping[Any, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(inner, value) if both and inner is not None else value
    return result


def read_settings(
    path: Path | None, model: str | None, base: Settings | None = None, method: str | None = None
) -> Settings:
    """``base``, or the preset of the model and method, with what the YAML file says over it.

    ``model`` and ``method`` win over the file's; with a method the training is the preset's
    rather than that of ``base``. Raises UserError naming the file and the key for keys and
    values that are not known.
    """
    tree: Mapping[str, Any] = {} if path is None else read_yaml(path, "a YAML file")
    named = tree.get("model")
    chosen = model or (named if isinstance(named, str) else None)
    if chosen is not None:
        require_spelling(chosen)
    start = base if base is not None else preset(chosen or "mini")
    training = tree.get("training")
    named_method = method or (training.get("method") if isinstance(training, Mapping) else None)
    kind = kind_of(chosen or start.model)
    if isinstance(named_method, str) and named_method != start.training.method:
        start = replace(start, training=training_preset(kind, named_method))
    if chosen is not None:
        start = replace(start, model=chosen)
        tree = {**tree, "model": chosen}
    try:
        return TypeAdapter(Settings).validate_python(_merged(asdict(start), tree))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: the setting {key} {reason(first)}") from error


def settings_yaml(settings: Settings) -> str:
    """The settings as a YAML file that ``read_settings`` reads back."""
    import json

    import yaml

    plain = json.loads(json.dumps(asdict(settings)))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def flat(settings: Mapping[str, Any]) -> dict[str, object]:
    """{"training": {"steps": 400}} to {"training.steps": 400}, for a table of settings."""
    result: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            result |= {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            result[key] = value
    return result
