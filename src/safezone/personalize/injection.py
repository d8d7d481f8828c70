"""How a pass through the model uses what the runs have learned so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from safezone.arrays import Latents, Times, Timesteps
from safezone.models.base import Conditioning, Model, Tokens
from safezone.models.deltas import Changes, Delta
from safezone.personalize.history import VECTORS

Network: TypeAlias = Callable[[Latents, Times, Conditioning], Latents]
"""Noisy latents, timesteps and what the text says to the raw prediction, as ``Model.predict``."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of one pass.

    ``runs``, ``prompts``: int64 [batch]: which run, which of its prompts (-1: its last). ``noisy``:
    [batch, channels, h, w]. ``timesteps``: int64 [batch]. On the model's device, but the indices
    on the CPU where ``Injection.predict`` looks for equal ones.
    """

    runs: Int[Tensor, " batch"]
    prompts: Int[Tensor, " batch"]
    noisy: Latents
    timesteps: Timesteps


@dataclass(frozen=True, eq=False)
class Start:
    """One run before its first step.

    ``parameters``: float32, without an axis of runs. ``prompts``: the training prompts in full.
    ``placeholder``: where the vectors go in them; None without vectors.
    """

    parameters: Mapping[str, Tensor]
    prompts: Sequence[str]
    placeholder: str | None


class Rules(Protocol):
    """What a method says about its parameters, by name, each [runs, ...], on the model's device."""

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]:
        """The changes of layers that they make, by the layer's name; differentiable."""
        ...

    def constrain(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
        """Projects them in place after a step; ``start``: as they were before the first."""
        ...


class Injection:
    """The parameters of some runs, [runs, ...]: token vectors in the lookup, changes of layers."""

    def __init__(
        self, model: Model, rules: Rules, starts: Sequence[Start], vectors: int, templates: int
    ) -> None:
        self._model, self._rules = model, rules
        tokens = [
            model.tokenize(start.prompts, start.placeholder, max(1, vectors)) for start in starts
        ]
        joined = Tokens.joined(tokens, model.tokenize([""]))  # run after run, prompt after prompt
        self._tokens = Tokens(joined.ids.to(model.device), joined.slots.to(model.device), vectors)
        self.initial: Mapping[str, Tensor] = {
            name: torch.stack([start.parameters[name] for start in starts]).to(model.device)
            for name in starts[0].parameters
        }
        self.templates = templates
        self._prompts = len(starts[0].prompts)
        layers = rules.deltas(self.initial)
        learns_text = VECTORS in self.initial or any(not n.startswith("unet.") for n in layers)
        self._fixed: Conditioning | None = None
        if not learns_text:
            with torch.no_grad():
                self._fixed = model.embed_text(self._tokens)

    def predict(self, network: Network, parameters: Mapping[str, Tensor], batch: Batch) -> Latents:
        """The network's prediction for each row with its run's parameters; differentiable.

        The text encoder sees each (run, prompt) pair of the batch once, or never where what it
        makes of the prompts stays the same.
        """
        device = self._model.device
        prompts = self._places(batch)
        if self._fixed is not None:
            return self._predict(network, parameters, batch, prompts.to(device))
        pairs, pair_of = torch.unique(prompts, return_inverse=True)
        conditioning = self._embed(
            parameters, pairs.to(device), (pairs // self._prompts).to(device)
        )
        return network(batch.noisy, batch.timesteps, conditioning[pair_of.to(device)])

    def predict_rows(
        self, network: Network, parameters: Mapping[str, Tensor], batch: Batch
    ) -> Latents:
        """As ``predict``, but the text encoder sees every row, so that all shapes stay the same.

        Nothing waits for the device: the indices lie there too.
        """
        prompts = self._places(batch)
        if self._fixed is not None:
            return self._predict(network, parameters, batch, prompts)
        conditioning = self._embed(parameters, prompts, batch.runs)
        return network(batch.noisy, batch.timesteps, conditioning)

    def _places(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Each row's prompt among those of all runs."""
        return batch.runs * self._prompts + batch.prompts % self._prompts

    def _embed(
        self, parameters: Mapping[str, Tensor], prompts: Tensor, runs: Tensor
    ) -> Conditioning:
        layers = self._rules.deltas(parameters)
        return self._model.embed_text(
            self._tokens[prompts],
            parameters[VECTORS][runs] if VECTORS in parameters else None,
            Changes(layers, runs) if layers else None,
        )

    def _predict(
        self, network: Network, parameters: Mapping[str, Tensor], batch: Batch, prompts: Tensor
    ) -> Latents:
        """With what the text encoder made of the prompts before the first step."""
        assert self._fixed is not None
        fixed, device = self._fixed[prompts], self._model.device
        changes = Changes(self._rules.deltas(parameters), batch.runs.to(device))
        conditioning = Conditioning(fixed.encoder_hidden_states, fixed.added, changes)
        return network(batch.noisy, batch.timesteps, conditioning)

    def constrain(self, parameters: Mapping[str, Tensor]) -> None:
        """Projects the parameters in place after each step."""
        self._rules.constrain(parameters, self.initial)
