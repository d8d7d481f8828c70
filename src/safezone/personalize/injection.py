"""How a pass through the model uses what the runs have learned so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from safezone.arrays import Latents
from safezone.models.base import Conditioning, Model, Tokens
from safezone.models.deltas import Changes, Delta
from safezone.personalize.history import VECTORS
from safezone.personalize.method import Batch, Network


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
    """What a method says about its parameters."""

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Delta]: ...
    def constrain(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None: ...


class Injection:
    """The parameters of some runs, [runs, ...]: token vectors in the lookup, changes of layers."""

    def __init__(
        self, model: Model, rules: Rules, starts: Sequence[Start], vectors: int, templates: int
    ) -> None:
        self._model, self._rules = model, rules
        tokens = [
            model.tokenize(start.prompts, start.placeholder, max(1, vectors)) for start in starts
        ]
        self._tokens = Tokens(
            torch.cat([each.ids for each in tokens]).to(model.device),
            torch.cat([each.slots for each in tokens]).to(model.device),
        )  # run after run, prompt after prompt
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
        layers = self._rules.deltas(parameters)
        prompts = batch.runs * self._prompts + batch.prompts % self._prompts
        if self._fixed is not None:
            fixed = self._fixed[prompts.to(device)]
            changes = Changes(layers, batch.runs.to(device))
            conditioning = Conditioning(fixed.encoder_hidden_states, fixed.added, changes)
            return network(batch.noisy, batch.timesteps, conditioning)
        pairs, pair_of = torch.unique(prompts, return_inverse=True)
        runs, pairs = (pairs // self._prompts).to(device), pairs.to(device)
        conditioning = self._model.embed_text(
            self._tokens[pairs],
            parameters[VECTORS][runs] if VECTORS in parameters else None,
            Changes(layers, runs) if layers else None,
        )
        return network(batch.noisy, batch.timesteps, conditioning[pair_of.to(device)])

    def constrain(self, parameters: Mapping[str, Tensor]) -> None:
        """Projects the parameters in place after each step."""
        self._rules.constrain(parameters, self.initial)
