"""Encoders by name or folder: safetensors only, and the network only for names of the hub."""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from safezone.errors import UserError
from safezone.models.frozen import freeze
from safezone.models.parts import read_part
from safezone.models.text import TextEncoder
from safezone.reading import parse_json
from safezone.scores.encoders import (
    DINOV2,
    MINI,
    InstanceEncoder,
    Preprocessing,
    clip_preprocessing,
    read_preprocessing,
)
from safezone.scores.text_image import ClipEncoder, LearnedTokenEncoder

BUILTIN_FOLDER = Path(__file__).parents[1] / "models" / "weights"
"""Where the built-in encoders are: one folder a name."""

BUILTIN_ENCODERS = ("mini-instance", "mini-clip")
HUB_NAMES: Mapping[str, str] = {
    "dinov2": "facebook/dinov2-base",
    "clip": "openai/clip-vit-large-patch14",
}


def _load_weights(model_class: Any, folder: Path) -> Any:
    """A model of transformers from this folder's safetensors, whole and frozen."""
    model = read_part(model_class, folder.parent, folder.name, dtype=torch.float32)
    freeze(model)
    return model


def _load_projection(folder: Path) -> nn.Linear | None:
    """The linear map of ``projection.safetensors`` (weight [out, in], bias [out] if any)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "projection.safetensors"
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        outputs, inputs = tensors["weight"].shape
        projection = nn.Linear(inputs, outputs, bias="bias" in tensors)
        projection.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a linear map ({error}); it needs weight [out, in] and, if any, bias [out]"
        ) from error
    return projection.eval().requires_grad_(False)


def _class_token(output: Any) -> Tensor:
    return cast(Tensor, output.last_hidden_state[:, 0])


def _pooled(output: Any) -> Tensor:
    return cast(Tensor, output.pooler_output.flatten(1))


def _instance_loader(
    class_name: str, pool: Callable[[Any], Tensor], default: Preprocessing
) -> Callable[[str, Path, torch.device], InstanceEncoder | ClipEncoder]:
    def load(name: str, folder: Path, device: torch.device) -> InstanceEncoder:
        import transformers  # takes seconds: only when an encoder is loaded

        network = _load_weights(getattr(transformers, class_name), folder).to(device)
        projection = _load_projection(folder)
        if projection is not None:
            projection = projection.to(device)
        preprocessing = read_preprocessing(folder, default)
        return InstanceEncoder(name, network, pool, preprocessing, projection, device)

    return load


def _load_clip(name: str, folder: Path, device: torch.device) -> ClipEncoder:
    import transformers

    files = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= files:
        # CLIPTokenizer would make a vocabulary of two tokens without a word.
        raise UserError(f"{folder}: no tokenizer; add tokenizer.json, or vocab.json and merges.txt")
    model = _load_weights(transformers.CLIPModel, folder).to(device)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    rows = model.config.text_config.vocab_size
    if len(tokenizer) > rows:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model {rows}; "
            "give files that belong together"
        )
    default = clip_preprocessing(model.config.vision_config.image_size)
    return ClipEncoder(name, model, tokenizer, read_preprocessing(folder, default), device)


_LOADERS: Mapping[str, Callable[[str, Path, torch.device], InstanceEncoder | ClipEncoder]] = {
    "dinov2": _instance_loader("Dinov2Model", _class_token, DINOV2),
    "resnet": _instance_loader("ResNetModel", _pooled, MINI),
    "convnext": _instance_loader("ConvNextModel", _pooled, MINI),
    "clip": _load_clip,
}
"""config.json's model_type to what loads it."""


def _download(name: str) -> Path:
    """The local snapshot of a hub model, from the hub's cache or, if need be, the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # Not *.safetensors: repositories may keep further checkpoints in folders.
        patterns = ["*.json", "model*.safetensors", "*.txt"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{name}: neither a folder nor a model that the hub or its cache gives "
            f"({type(error).__name__}); give a folder, or fetch it on a machine with a network"
        ) from error


def _locate(name: str) -> Path:
    if name in BUILTIN_ENCODERS:
        folder = BUILTIN_FOLDER / name
        if not folder.is_dir():
            raise UserError(f"{name}: no built-in weights in {folder}; install the package again")
        return folder
    if name in HUB_NAMES:
        return _download(HUB_NAMES[name])
    if Path(name).is_dir():
        return Path(name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return _download(name)
    known = [*BUILTIN_ENCODERS, *HUB_NAMES]
    near = difflib.get_close_matches(name, known) or known
    raise UserError(f"{name}: no such encoder or folder; known names near it: {', '.join(near)}")


def load_encoder(
    name_or_folder: str | Path, device: torch.device | str = "cpu"
) -> InstanceEncoder | ClipEncoder:
    """An encoder by name (mini-instance, mini-clip, dinov2, clip), folder or hub name.

    A folder's config.json says what it is: model_type dinov2, resnet, convnext or clip. Beside
    it stand model.safetensors, preprocessor_config.json (or the type's defaults),
    projection.safetensors if any, a CLIP's tokenizer. The network is only used for hub names,
    ``dinov2`` and ``clip`` that the hub's cache has not. Raises UserError for bad weights.
    """
    name = str(name_or_folder)
    folder = _locate(name)
    path = folder / "config.json"
    try:
        model_type = parse_json(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: does not say a model_type; give the folder of an encoder"
        ) from error
    if model_type not in _LOADERS:
        raise UserError(f"{path}: model_type {model_type!r} is none of {', '.join(_LOADERS)}")
    return _LOADERS[model_type](name, folder, torch.device(device))


def load_learned_token_encoder(
    name_or_folder: str | Path, device: torch.device | str = "cpu"
) -> LearnedTokenEncoder:
    """As ``load_text_image_encoder``, to read prompts with the learned token in them."""
    clip = load_text_image_encoder(name_or_folder, device)
    return LearnedTokenEncoder(clip, TextEncoder(clip.model.text_model, clip.tokenizer))


def load_text_image_encoder(
    name_or_folder: str | Path, device: torch.device | str = "cpu"
) -> ClipEncoder:
    """As ``load_encoder``, for an encoder that reads text too; UserError when it does not."""
    encoder = load_encoder(name_or_folder, device)
    if not isinstance(encoder, ClipEncoder):
        raise UserError(f"{name_or_folder}: this encoder reads no text; give a CLIP or mini-clip")
    return encoder
