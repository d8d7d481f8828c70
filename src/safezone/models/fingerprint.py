"""A hash of everything that a model computes with, wherever the model keeps it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

# Where a model lies, what it is called and where it runs do not change what it computes.
_NOT_CONTENT: Final = frozenset({"name", "folder", "device"})
_LITERALS: Final = (str, bytes, int, float, complex, bool, type(None), torch.dtype, Enum, type)

_FINGERPRINTS: "WeakKeyDictionary[object, tuple[tuple[object, ...], str]]" = WeakKeyDictionary()


class Fingerprinted(Protocol):
    """Whatever can tell what its results depend on: models, encoders, upscalers."""

    def fingerprint(self) -> str:
        """A hash of all weights, tokenizers, configurations and settings."""
        ...


def fingerprint(owner: object) -> str:
    """SHA-256, in hex, of all weights, tokenizers, configurations and settings that ``owner`` has.

    Attributes are followed through lists, dictionaries, pipelines and other objects; ``name``,
    ``folder`` and ``device`` do not count. An object inside that has a method ``fingerprint``
    speaks for itself. Computed again when a weight has changed. Raises TypeError for an attribute
    whose content cannot be told; such a class needs a ``fingerprint`` of its own.
    """
    leaves = list(_fields(owner, "", {id(owner)}))
    stamp = tuple(_stamp(value) for _, value in leaves)
    before = _FINGERPRINTS.get(owner)
    if before is None or before[0] != stamp:
        digest = hashlib.sha256()
        for path, value in leaves:
            digest.update(f"\x1e{path}\x1f".encode())
            digest.update(_content(value))
        before = _FINGERPRINTS[owner] = (stamp, digest.hexdigest())
    return before[1]


def tensors(owner: object) -> list[tuple[str, Tensor]]:
    """All weights and other tensors of ``owner``, each with the path at which it is kept."""
    leaves = _fields(owner, "", {id(owner)})
    return [(path, value) for path, value in leaves if isinstance(value, Tensor)]


def _fields(owner: object, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    """What ``owner`` is made of, as pairs of a path and a tensor, tokenizer or text."""
    if isinstance(owner, nn.Module):
        seen |= {id(module) for module in owner.modules()}
        yield from _config(owner, path)
        for name, tensor in owner.state_dict().items():
            yield f"{path}.{name}", tensor
        for name, module in owner.named_modules():  # what torch does not know of
            for attribute, value in vars(module).items():
                if not attribute.startswith("_") and _holds_weights(value):
                    yield from _walk(value, f"{path}.{name}.{attribute}", seen)
        return
    components = getattr(owner, "components", None)
    if isinstance(components, Mapping):  # a pipeline of diffusers
        yield from _walk(components, path, seen)
        return
    configured = list(_config(owner, path))
    if configured:  # a scheduler, whose other attributes change with use
        yield from configured
        return
    if not hasattr(owner, "__dict__"):
        raise TypeError(f"{path or owner!r} is a {type(owner).__name__}, whose content is unknown")
    yield path, type(owner).__qualname__
    for name, value in sorted(vars(owner).items()):
        if name not in _NOT_CONTENT:
            yield from _walk(value, f"{path}.{name}", seen)


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    if isinstance(value, _LITERALS):
        yield path, repr(value)
    elif isinstance(value, torch.device | Path):
        return
    elif isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, np.ndarray | np.generic):
        yield path, torch.as_tensor(value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from _walk(value[key], f"{path}[{key!r}]", seen)
    elif isinstance(value, AbstractSet):
        yield path, repr(sorted(map(repr, value)))
    elif isinstance(value, Sequence):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]", seen)
    elif id(value) in seen:
        return
    elif isinstance(value, FunctionType):
        yield path, f"{value.__module__}.{value.__qualname__}"
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        yield from _walk([value.__defaults__, cells], path, seen | {id(value)})
    elif isinstance(value, MethodType):
        yield path, value.__func__.__qualname__
        yield from _walk(value.__self__, path, seen)
    elif hasattr(value, "get_vocab"):
        seen.add(id(value))
        yield path, value
    elif callable(getattr(value, "fingerprint", None)):
        seen.add(id(value))
        yield path, value.fingerprint()
    else:
        seen.add(id(value))
        yield from _fields(value, path, seen)


def _config(owner: Any, path: str) -> Iterator[tuple[str, object]]:
    """What a configuration says; entries that say nothing (None, False) differ by version."""
    config: Any = getattr(owner, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(values, Mapping):
        ignored = {"dtype", "torch_dtype", "transformers_version", "architectures"}
        said = {
            name: value
            for name, value in values.items()
            if value and not name.startswith("_") and name not in ignored
        }
        text = json.dumps(said, sort_keys=True, default=str)
        yield f"{path}.config", type(owner).__name__ + text


def _holds_weights(value: object) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_holds_weights(item) for item in value)
    return isinstance(value, nn.Module | Tensor)


def _stamp(value: object) -> object:
    """What tells that a leaf is still the same without reading it."""
    if isinstance(value, Tensor):
        return value.data_ptr(), value._version, value.dtype, value.shape
    return value if isinstance(value, str) else id(value)


def _content(value: Any) -> bytes:
    if isinstance(value, Tensor):
        rows = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return f"{value.dtype} {tuple(value.shape)}".encode() + rows.numpy().tobytes()
    if isinstance(value, str):
        return value.encode()
    # A tokenizer. The padding and truncation of its last call are left out.
    backend = getattr(value, "backend_tokenizer", None)
    if backend is not None:
        whole = json.loads(backend.to_str())
        rules = {name: whole[name] for name in ("model", "added_tokens", "pre_tokenizer")}
    else:
        rules = dict(sorted(value.get_vocab().items()))
    said = [value.model_max_length, value.special_tokens_map, rules]
    return json.dumps(said, sort_keys=True, default=str).encode()
