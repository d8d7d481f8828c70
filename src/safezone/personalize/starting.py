"""Where a training goes on from: what an adapter's file holds, as parameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.errors import UserError
from safezone.models.base import Model
from safezone.models.deltas import LowRank
from safezone.personalize.files import load_adapter


def started_vectors(path: Path, model: Model, count: int) -> Float[Tensor, "vectors width"]:
    """The vectors in the file; UserError unless there are ``count`` of the model's width."""
    vectors = load_adapter(path, model).vectors
    if not len(vectors):
        raise UserError(
            f"{path} holds no token vectors but changes of layers; start from an embedding, or "
            "choose the method that made it."
        )
    if vectors.shape != (count, model.embedding_width):
        raise UserError(
            f"{path} holds {len(vectors)} vectors of {vectors.shape[1]} numbers, and {count} of "
            f"{model.embedding_width} are wanted; give vectors {len(vectors)} and the kind of "
            "model it was trained on."
        )
    return vectors.clone()


def started_low_rank(
    path: Path, model: Model, layers: Sequence[str], rank: int, scale: float
) -> Mapping[str, Tensor]:
    """Down and up matrices from the file, for just these layers and this rank.

    A scale other than ``scale`` is taken into the up matrix. Raises UserError when the file has
    other layers or ranks.
    """
    deltas = load_adapter(path, model).deltas
    others = set(deltas) ^ set(layers)
    if others:
        raise UserError(
            f"{path} changes {len(deltas)} layers and the training {len(layers)}, for example not "
            f"both {min(others)}; give the targets, text_encoder and text_targets that the file "
            "was trained with."
        )
    parameters = {}
    for name in layers:
        delta = deltas[name]
        if not isinstance(delta, LowRank) or len(delta.down) != rank:
            kind = f"rank {len(delta.down)}" if isinstance(delta, LowRank) else "full changes"
            raise UserError(f"{path} has {kind} and the training rank {rank}; give its own rank.")
        parameters[f"{name}.down"] = delta.down.clone()
        parameters[f"{name}.up"] = delta.up * (delta.scale / scale)
    return parameters


def started_full(path: Path, model: Model, layers: Sequence[str]) -> Mapping[str, Tensor]:
    """The changes in the file in full, zero where it changes nothing; UserError for others."""
    deltas = load_adapter(path, model).deltas
    unknown = set(deltas) - set(layers)
    if unknown:
        raise UserError(
            f"{path} changes {min(unknown)}, which this method leaves alone; go on from it with "
            "the method that made it."
        )
    return {
        f"{name}.change": deltas[name].weight().clone()
        if name in deltas
        else torch.zeros(model.layers[name])
        for name in layers
    }
