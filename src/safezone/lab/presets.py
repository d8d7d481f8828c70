"""Settings by kind of model: a preset, and a YAML file over it."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from safezone.errors import UserError
from safezone.fields import checks_of, located
from safezone.lab.settings import Cells, Poisoning, Sampling, Scoring, Settings
from safezone.lab.training import Training, method_named
from safezone.models.known import KNOWN, known_model, model_path
from safezone.reading import read_json, read_yaml
from safezone.scores.table import SLOTS

# Which kind of model a name is

KINDS: Final = ("mini", "sd15", "sd15-rf", "sd21", "sdxl")

_TWINS: Final = ("mini-v", "mini-rf")


def kind_of(model: str) -> str:
    """One of ``KINDS``: a built-in model, a known name, or what a folder's files say, of a single
    file those of the folder beside it.

    A name or a single file that tells nothing counts as ``sd15``. Reads no weights.
    """
    if model == "mini" or model in _TWINS:
        return "mini"
    if known := known_model(model):
        return known.preset
    folder = model_path(model)
    if folder.is_file():
        folder = folder.with_suffix("")  # its configurations, where there are any
    if (folder / "text_encoder_2").is_dir():
        return "sdxl"
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    index = _config(folder / "model_index.json")
    flow = f"{index.get('_class_name')} {scheduler.get('_class_name')}"
    if "RectifiedFlow" in flow or "FlowMatch" in flow:
        return "sd15-rf"
    if _config(folder / "unet" / "config.json").get("cross_attention_dim") == 1024:
        return "sd21"
    return "sd15"


def require_spelling(model: str) -> None:
    """Raises UserError for a name that nearly is one of ours, such as ``sd15-fr``."""
    known = ("mini", *_TWINS, *KNOWN)
    if model in known or known_model(model) or "/" in model or model_path(model).exists():
        return  # the hub has other names that are much like ours
    near = difflib.get_close_matches(model, known, n=1, cutoff=0.8)
    if near:
        raise UserError(f"there is no model {model!r}; did you mean {near[0]}?")


def _config(file: Path) -> Mapping[str, Any]:
    """What the file says; nothing where the loader will say what is wrong with it."""
    try:
        return read_json(file)
    except UserError:
        return {}


# Presets

_LORA: Final = Training("lora", steps=1000, learning_rate=1e-4)
_CUSTOM: Final = Training("custom-diffusion", steps=1000, learning_rate=1e-5)
_SHORT: Final = Training(steps=2500)
# Chosen on clean images of the six development objects; docs/claim.md tells what else was tried.
_MINI: Final = Training(steps=200, batch_size=2, learning_rate=2e-2, checkpoint_every=20)
_MINI_LORA: Final = replace(_MINI, method="lora", learning_rate=4e-3, schedule="cosine")
_MINI_CUSTOM: Final = replace(
    _MINI, method="custom-diffusion", steps=400, learning_rate=2e-3, schedule="cosine"
)

TRAINING: Final[Mapping[tuple[str, str], Training]] = {
    ("mini", "ti"): _MINI,
    ("mini", "lora"): _MINI_LORA,
    ("mini", "custom-diffusion"): _MINI_CUSTOM,
    # Sec. 5.1, and Appendix P for the other methods, whose rates are those of diffusers' own
    # scripts: the paper does not state them.
    ("sd15", "ti"): Training(steps=5000, batch_size=1, learning_rate=5e-4),
    ("sd15", "lora"): _LORA,
    ("sd15", "custom-diffusion"): _CUSTOM,
    # Appendix O.
    ("sd15-rf", "ti"): _SHORT,
    ("sd15-rf", "lora"): _LORA,
    ("sd15-rf", "custom-diffusion"): _CUSTOM,
    ("sd21", "ti"): _SHORT,
    ("sd21", "lora"): _LORA,
    ("sd21", "custom-diffusion"): _CUSTOM,
    ("sdxl", "ti"): Training(steps=500, accumulation=5),
    ("sdxl", "lora"): _LORA,
    ("sdxl", "custom-diffusion"): _CUSTOM,
}
"""By kind of model and method."""

PRESETS: Final[Mapping[str, Settings]] = {
    "mini": Settings(
        model="mini",
        training=TRAINING["mini", "ti"],
        sampling=Sampling(prompts=("mini",), steps=25, guidance=4.0),
        scoring=Scoring(**{slot.setting: slot.built_in for slot in SLOTS.values()}),
        cells=Cells(poison_seed=0),
    ),
    # The paper's: five images for each of 24 prompts; the sampler is not stated there.
    "sd15": Settings(
        model="sd15",
        sampling=Sampling(("paper24",), images_per_prompt=5, steps=50, guidance=7.5),
    ),
}
"""Settings by kind of model; what a model called otherwise gets is ``sd15``."""

DEMO: Final = replace(
    PRESETS["mini"],
    poisoning=Poisoning(steps=30, eta=2 / 255),
    training=replace(PRESETS["mini"].training, steps=120),
    sampling=replace(
        PRESETS["mini"].sampling,
        steps=10,
        prompts=(
            "a photo of a {}",
            "a photo of a {} on grass",
            "a photo of a {} in the snow",
            "a photo of a {} in the water",
            "a photo of a {} on wood",
            "a photo of a {} at night",
        ),
    ),
    cells=Cells(concepts=6, seeds=1, poisons=("adm+",), defenses=("nominal", "szt"), poison_seed=0),
)
"""Six concepts, about six minutes of one core: less of everything than the preset has."""


def is_quick(suite: str) -> bool:
    """Whether a suite of attackers is for a quick look, whatever its version."""
    return suite.partition("-")[0] == "quick"


def quick(settings: Settings) -> Settings:
    """The settings with as few images as a quick look needs: on the built-in models those of the
    demo's prompts, on others one of each prompt."""
    if kind_of(settings.model) == "mini":
        prompts = DEMO.sampling.prompts
        return replace(settings, sampling=replace(settings.sampling, prompts=prompts))
    return replace(settings, sampling=replace(settings.sampling, images_per_prompt=1))


def training_preset(kind: str, method: str) -> Training:
    """The preset for a kind of model; a method without one brings its own fields' defaults.

    Raises UserError for an unknown method.
    """
    if (kind, method) in TRAINING:
        return TRAINING[kind, method]
    own: dict[str, Any] = {each.name: each.default for each in fields(method_named(method))}
    shared = {each.name for each in fields(Training)} - {"method", "templates", "start"}
    return Training(method, **{name: own[name] for name in shared & own.keys()})


def preset(model: str, method: str = "ti") -> Settings:
    """The preset for a model's name, folder or hub name and for a method."""
    kind = kind_of(model)
    return replace(
        PRESETS.get(kind, PRESETS["sd15"]), model=model, training=training_preset(kind, method)
    )


# Files


def _merged(base: Mapping[str, Any], over: Mapping[Any, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        inner: Any = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(inner, value) if both else value
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
    if isinstance(named_method, str) and named_method != start.training.method:
        kind = kind_of(chosen or start.model)
        start = replace(start, training=training_preset(kind, named_method))
    if chosen is not None:
        start = replace(start, model=chosen)
        tree = {**tree, "model": chosen}
    try:
        settings: Settings = checks_of(Settings).validate_python(_merged(asdict(start), tree))
    except ValidationError as error:
        raise UserError(f"{path}: the setting {located(error)}") from error
    return settings


def own_cells(path: Path | None, model: str) -> Cells:
    """The cells for a command that has runs of its own: of the file's, the poison's seed alone.

    Raises UserError where the file says anything else of them, which would be passed over.
    """
    cells = read_settings(path, model).cells
    for name, usual in asdict(Cells(poison_seed=cells.poison_seed)).items():
        if getattr(cells, name) != usual:
            raise UserError(
                f"{path}: cells.{name} is for `safezone claim` and `safezone demo`; leave it out, "
                "this command has a grid or options for it"
            )
    return cells


def refuse_models(path: Path | None, model: str, *names: str) -> None:
    """Raises UserError where the file gives one of these settings, which would be passed over."""
    settings = read_settings(path, model)
    for name in names:
        if getattr(settings, name):
            raise UserError(
                f"{path}: {name} is for grids, claims and figures; leave it out, this command "
                "poisons and purifies on its --model"
            )


def settings_yaml(settings: Settings) -> str:
    """The settings as a YAML file that ``read_settings`` reads back."""
    import yaml

    plain = json.loads(json.dumps(asdict(settings)))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def flat(settings: Mapping[str, Any]) -> dict[str, object]:
    """{"training": {"steps": 400}} to {"training.steps": 400}, for a table of settings."""
    result: dict[str, object] = {}
    for key, value in settings.items():
        group = isinstance(value, Mapping)
        result |= {f"{key}.{inner}": v for inner, v in value.items()} if group else {key: value}
    return result
