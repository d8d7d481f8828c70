"""LoRA files of diffusers, peft, kohya's scripts, AUTOMATIC1111 and ComfyUI: tensors to changes.

A low-rank change is two matrices, down [rank, inputs] and up [outputs, rank], that go by several
pairs of names, and a scale. The scale is alpha / rank: alpha is a tensor (kohya), or stands in the
metadata of the file (diffusers' ``lora_adapter_metadata``) or in ``adapter_config.json`` (peft);
without any it is the rank. rsLoRA (Kalajdzievski 2023) divides by the root of the rank. A change in
full is ``diff``. 1 x 1 convolutions have two more axes of length 1.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from safezone.errors import UserError
from safezone.models.deltas import Delta, Full, LowRank
from safezone.personalize.layer_names import diffusers_key, kohya_key, names_of
from safezone.reading import parse_json

_MATRIX: Final = re.compile(
    r"(?P<stem>.+?)(?:\.lora_(?P<letter>[AB])(?:\.\w+)?"
    r"|[._]lora(?:_linear_layer)?[._](?P<word>down|up))\.weight"
)
_ROLES: Final = {"A": "down", "B": "up"}
_OTHERS: Final = (".alpha", ".diff")
_KINDS: Final = (
    (r"\.hada_", "LoHa"),
    (r"\.lokr_", "LoKr"),
    (r"\.(on_input|ia3_\w+)$", "IA3"),
    (r"\.(dora_scale|lora_magnitude_vector)", "DoRA"),
    (r"\.b?oft_", "OFT"),
    (r"\.lora_mid\.", "LoCon"),
    (r"\.[ab][12]\.weight$", "GLoRA"),
    (r"\.[wb]_norm$", "LyCORIS norm"),
    (r"\.(diff_b|lora_B(\.\w+)?\.bias|lora_up\.bias)$", "LoRA with biases"),
)
"""Changes of layers that are told from a LoRA by the end of a name."""
_METADATA: Final = "lora_adapter_metadata"
_PEFT: Final = "base_model.model."


def is_lora(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names changes layers."""
    return any(
        name.endswith(".diff") or _MATRIX.fullmatch(name) or _kind(name) is not None
        for name in names
    )


def _kind(name: str) -> str | None:
    return next((kind for pattern, kind in _KINDS if re.search(pattern, name)), None)


def diffusers_lora(
    deltas: Mapping[str, Delta], convolutions: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The tensors of ``pytorch_lora_weights.safetensors`` for low-rank changes.

    The scale is taken into the up matrix: without metadata diffusers takes alpha to be the rank.
    """
    tensors = {}
    for layer, delta in deltas.items():
        if isinstance(delta, LowRank):
            shaped = _shaping(layer in convolutions)
            key = diffusers_key(layer)
            tensors[f"{key}.lora_A.weight"] = shaped(delta.down)
            tensors[f"{key}.lora_B.weight"] = shaped(delta.scale * delta.up)
    return tensors


def kohya_lora(
    deltas: Mapping[str, Delta], xl: bool, convolutions: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The tensors of a LoRA in kohya's names; changes in full are ``diff``."""
    tensors = {}
    for layer, delta in deltas.items():
        shaped = _shaping(layer in convolutions)
        key = kohya_key(layer, xl)
        if isinstance(delta, Full):
            tensors[f"{key}.diff"] = shaped(delta.change)
            continue
        tensors[f"{key}.lora_down.weight"] = shaped(delta.down)
        tensors[f"{key}.lora_up.weight"] = shaped(delta.up)
        tensors[f"{key}.alpha"] = torch.tensor(delta.scale * len(delta.down))
    return tensors


def _shaping(convolution: bool) -> Any:
    return (lambda matrix: matrix[:, :, None, None]) if convolution else (lambda matrix: matrix)


def read_deltas(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    layers: Iterable[str] | None,
    path: Path,
) -> tuple[dict[str, Delta], frozenset[str]]:
    """The changes in a file by the names of ``Model.layers``; and which are of convolutions.

    ``layers``: those of the model, which all names but diffusers' need; None reads diffusers' only.
    Raises UserError for layers that the model does not have, matrices without their pair or of
    unequal ranks, values that are not finite, and kinds of changes that are not known.
    """
    known = None if layers is None else names_of(layers)
    deltas: dict[str, Delta] = {}
    convolutions = set()
    scales = _Scales(tensors, metadata, path)
    for stem, parts in _layers_of(tensors, path).items():
        layer = _layer(stem, known, path)
        if layer in deltas:
            raise UserError(f"{path} changes {layer} under two names; export it again.")
        names = dict(parts)
        alpha = names.pop("alpha", None)
        if any(tensors[name].ndim == 4 for name in names.values()):
            convolutions.add(layer)
        matrices = {role: _matrix(tensors[name], name, path) for role, name in names.items()}
        if set(matrices) == {"diff"} and alpha is None:
            deltas[layer] = Full(matrices["diff"])
            continue
        if set(matrices) != {"down", "up"}:
            name = next(iter(parts.values()))
            raise UserError(f"{path} has {name} but no matrix to go with it; export it again.")
        down, up = matrices["down"], matrices["up"]
        if down.shape[0] != up.shape[1] or not len(down):
            raise UserError(
                f"{path} has matrices of ranks {down.shape[0]} and {up.shape[1]} for {stem}; both "
                "must be the same and at least 1, so export it again."
            )
        deltas[layer] = LowRank(down, up, scales.of(layer, stem, alpha, len(down)))
    return deltas, frozenset(convolutions)


def _layers_of(tensors: Iterable[str], path: Path) -> dict[str, dict[str, str]]:
    """The names of each layer's tensors by their role: down, up, alpha, diff."""
    layers: dict[str, dict[str, str]] = {}
    for name in tensors:
        kind = _kind(name)
        if kind is not None:
            raise UserError(
                f"{path} is a {kind} file ({name}), which is not supported; give a plain LoRA, or "
                "merge it into the model."
            )
        end = next((end for end in _OTHERS if name.endswith(end)), None)
        if match := _MATRIX.fullmatch(name):
            stem, role = match["stem"], match["word"] or _ROLES[match["letter"]]
        elif end is not None:
            stem, role = name.removesuffix(end), end[1:]
        else:
            raise UserError(
                f"{path} has {name}, which is no part of a plain LoRA; give a LoRA without "
                "extensions (LoCon, DoRA and the like)."
            )
        if role in layers.setdefault(stem, {}):
            raise UserError(f"{path} holds two adapters ({name}); export one of them alone.")
        layers[stem][role] = name
    return layers


def _layer(stem: str, known: Mapping[str, str] | None, path: Path) -> str:
    # diffusers' first LoRA files name the attention's processor.
    name = re.sub(r"to_out$", "to_out.0", stem.replace(".processor.", ".").removeprefix(_PEFT))
    if known is None:
        if not name.startswith(("unet.", "text_encoder.", "text_encoder_2.")):
            raise UserError(
                f"{path} names its layers as {stem}, which only a model explains; give the model."
            )
        return name.replace(".text_model.", ".", 1)
    if name not in known:
        raise UserError(
            f"{path} changes {stem}, which the model does not have; use it with the kind of model "
            "it was trained on."
        )
    return known[name]


class _Scales:
    """What a file says about alpha, beside or instead of its tensors ``alpha``."""

    def __init__(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
    ) -> None:
        self._tensors, self._path = tensors, path
        self._config: Mapping[str, Any] = {}
        if _METADATA in metadata:
            self._config = self._parse(metadata[_METADATA], f"{path} ({_METADATA})")
        elif any(name.startswith(_PEFT) for name in tensors):
            beside = path.with_name("adapter_config.json")
            if not beside.is_file():
                raise UserError(
                    f"{path} is a file of peft, whose alpha stands in adapter_config.json; put "
                    "that file beside it."
                )
            own = self._parse(beside.read_text(encoding="utf-8", errors="replace"), str(beside))
            self._config = {f"unet.{key}": value for key, value in own.items()}

    @staticmethod
    def _parse(text: str, where: str) -> Mapping[str, Any]:
        try:
            config = parse_json(text)
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise UserError(f"{where} is no JSON object; export the LoRA again.")
        return config

    def of(self, layer: str, stem: str, alpha: str | None, rank: int) -> float:
        """alpha / rank of one layer, as peft and kohya's scripts reckon it."""
        if alpha is not None and self._config:
            raise UserError(
                f"{self._path} tells alpha twice, in {alpha} and in its metadata; export it again."
            )
        if alpha is not None:
            tensor = self._tensors[alpha]
            return self._number(tensor.item() if tensor.numel() == 1 else None, alpha) / rank
        part, path = diffusers_key(layer).split(".", 1)
        patterns = self._config.get(f"{part}.alpha_pattern") or {}
        value = self._config.get(f"{part}.lora_alpha", rank)
        for pattern, own in patterns.items() if isinstance(patterns, dict) else ():
            if _matches(pattern, path):
                value = own
                break
        divisor = math.sqrt(rank) if self._config.get(f"{part}.use_rslora") else rank
        return self._number(value, f"lora_alpha of {stem}") / divisor

    def _number(self, value: Any, name: str) -> float:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(
                f"{self._path} has an alpha that is no finite number ({name}); export it again."
            )
        return float(value)


def _matches(pattern: str, path: str) -> bool:
    """Whether peft's pattern, the end of a path or a regular expression, is of this layer."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except re.error:
        return False


def _matrix(tensor: Tensor, name: str, path: Path) -> Tensor:
    """float32 [a, b], also of a 1 x 1 convolution; UserError for others and for NaN."""
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise UserError(
            f"{path} has {name}, {tensor.dtype} of shape {tuple(tensor.shape)}; only changes of "
            "linear layers and 1 x 1 convolutions are supported."
        )
    return finite_tensor(tensor, name, path)


def finite_tensor(tensor: Tensor, name: str, path: Path) -> Tensor:
    """The tensor in float32, from any floating type; UserError for NaN and infinite values."""
    plain = tensor.float().contiguous()  # also from float8, which knows no isfinite
    if not torch.isfinite(plain).all():
        raise UserError(f"{path} holds NaN or infinite values in {name}; train it again.")
    return plain
