"""How a pass through the model uses what the runs have learned so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.arrays import Latents, Times, Timesteps
from safezone.models.base import Conditioning, Model, Tokens
from safezone.models.deltas import Changes
from safezone.personalize.adapters import VECTORS
from safezone.personalize.personalization import Personalization, PreparedRun

Network: TypeAlias = Callable[[Latents, Times, Conditioning], Latents]
"""Noisy latents, timesteps and what the text says to the raw prediction, as ``Model.predict``."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Some rows of one pass, [rows, ...].

    ``runs``, ``prompts``: which run and which of its prompts, -1 its last, that of the class.
    ``timesteps``: int64. ``weights``: what the error is multiplied with; None for ones. On the
    model's device, but the indices on the CPU where ``Injection.predict`` looks for equal ones.
    """

    runs: Int[Tensor, " rows"]
    prompts: Int[Tensor, " rows"]
    noisy: Latents
    timesteps: Timesteps
    target: Latents
    weights: Float[Tensor, "rows 1 h w"] | None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that there are, in one order."""
        return [value for value in vars(self).values() if value is not None]

    def __getitem__(self, rows: slice) -> "Samples":
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> "Samples":
        """Copies on the device, the indices too."""
        return self._each(lambda tensor: tensor.to(device, copy=True))

    def _each(self, change: Callable[[Tensor], Any]) -> "Samples":
        changed: dict[str, Any] = {
            name: None if value is None else change(value) for name, value in vars(self).items()
        }
        return Samples(**changed)


class Injection:
    """The parameters of some runs, [runs, ...]: token vectors in the lookup, changes of layers.

    ``initial``: as they are before the first step, by name. ``templates``: how many prompts each
    run draws from. Raises UserError as the method's ``begin`` does.
    """

    def __init__(self, model: Model, method: Personalization, runs: Sequence[PreparedRun]) -> None:
        self._model, self._method = model, method
        most = max(len(run.concept.images) for run in runs)
        self.templates = most if method.captions else len(method.prompts)
        prompts, starts = [], []
        for run in runs:
            prompts.append(method.prompts_of(run, most))
            starts.append(method.begin(model, run))
        self._prompts = len(prompts[0])
        tokens = [
            model.tokenize(
                own, run.concept.placeholder if method.vectors else None, max(1, method.vectors)
            )
            for run, own in zip(runs, prompts, strict=True)
        ]
        joined = Tokens.joined(tokens, model.tokenize([""]))  # run after run, prompt after prompt
        ids, slots = joined.ids.to(model.device), joined.slots.to(model.device)
        self._tokens = Tokens(ids, slots, method.vectors)
        self.initial: Mapping[str, Tensor] = {
            name: torch.stack([start[name] for start in starts]).to(model.device)
            for name in starts[0]
        }
        layers = method.deltas(self.initial)
        learns_text = VECTORS in self.initial or any(not n.startswith("unet.") for n in layers)
        self._fixed: Conditioning | None = None
        """What the text encoder makes of the prompts, where that stays the same."""
        if not learns_text:
            with torch.no_grad():
                self._fixed = model.embed_text(self._tokens)

    def predict(
        self, network: Network, parameters: Mapping[str, Tensor], batch: Samples
    ) -> Latents:
        """The network's prediction for each row with its run's parameters; differentiable.

        The text encoder sees each (run, prompt) pair of the batch once, or never where what it
        makes of the prompts stays the same.
        """
        device = self._model.device
        if self._fixed is not None:
            on_device = replace(batch, runs=batch.runs.to(device), prompts=batch.prompts.to(device))
            return self.predict_rows(network, parameters, on_device)
        pairs, pair_of = torch.unique(self._places(batch), return_inverse=True)
        conditioning = self._embed(
            parameters, pairs.to(device), (pairs // self._prompts).to(device)
        )
        return network(batch.noisy, batch.timesteps, conditioning[pair_of.to(device)])

    def predict_rows(
        self, network: Network, parameters: Mapping[str, Tensor], batch: Samples
    ) -> Latents:
        """As ``predict``, but the text encoder sees every row, so that all shapes stay the same.

        Nothing waits for the device: the indices lie there too.
        """
        conditioning = self._embed(parameters, self._places(batch), batch.runs)
        return network(batch.noisy, batch.timesteps, conditioning)

    def _places(self, batch: Samples) -> Int[Tensor, " batch"]:
        """Each row's prompt among those of all runs."""
        return batch.runs * self._prompts + batch.prompts % self._prompts

    def _embed(
        self, parameters: Mapping[str, Tensor], prompts: Tensor, runs: Tensor
    ) -> Conditioning:
        layers = self._method.deltas(parameters)
        changes = Changes(layers, runs) if layers else None
        if self._fixed is not None:
            fixed = self._fixed[prompts]
            return Conditioning(fixed.encoder_hidden_states, fixed.added, changes)
        vectors = parameters[VECTORS][runs] if VECTORS in parameters else None
        return self._model.embed_text(self._tokens[prompts], vectors, changes)
