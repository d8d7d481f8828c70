"""What the runs see in one step, and the model's prediction with what they have learned so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.arrays import Latents, Times, Timesteps
from safezone.defenses.timesteps import TimestepDistribution
from safezone.models.base import Conditioning, Model, Posterior, Tokens
from safezone.models.deltas import Changes
from safezone.personalize.adapters import VECTORS
from safezone.personalize.draws import CropRescale, crops_of, draw, pick
from safezone.personalize.personalization import Personalization, PreparedRun
from safezone.personalize.posteriors import PriorData, TrainingData

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
            return replace(self._fixed[prompts], changes=changes)
        vectors = parameters[VECTORS][runs] if VECTORS in parameters else None
        return self._model.embed_text(self._tokens[prompts], vectors, changes)


@dataclass(frozen=True, eq=False)
class Sampler:
    """What the samples of every step are drawn from."""

    model: Model
    runs: Sequence[PreparedRun]
    method: Personalization
    data: TrainingData
    prior: PriorData | None
    templates: int
    untrained: Callable[[Samples], Latents] = lambda samples: samples.target
    """What the model predicted before the first step, float32, for masks that ask for it."""

    def at(self, step: int, active: Int[Tensor, " active"]) -> list[Samples]:
        """The samples of one step for the active runs, and after them those of the class where
        there is prior preservation; a function of the step alone."""
        own = self._own(step, active)
        return [own] if self.prior is None else [own, self._of_the_class(step, active, self.prior)]

    def _of_the_class(self, step: int, active: Tensor, prior: PriorData) -> Samples:
        """As many images of the class as of the concept, at uniform timesteps, nothing masked."""
        size, process = self.method.batch_size * self.method.accumulation, self.model.process
        names = [(self.runs[r].seed, f"prior of {self.runs[r].concept.name}") for r in active]
        draws = draw(names, step, size, self.data.shape)
        rows = (prior.first[active, None] + pick(draws.image, prior.counts[active, None])).flatten()
        rows, device = rows.to(self.model.device), self.model.device
        posterior = Posterior(prior.posteriors.mean[rows], prior.posteriors.std[rows])
        clean, noise = posterior.sample(draws.posterior_noise.to(device)), draws.noise.to(device)
        timesteps = pick(draws.timestep, process.steps).flatten().to(device)
        return Samples(
            active.repeat_interleave(size),
            torch.full((len(rows),), -1),
            process.corrupt(clean, noise, timesteps),
            timesteps,
            process.target(clean, noise, timesteps),
            None,
        )

    def _own(self, step: int, active: Int[Tensor, " active"]) -> Samples:
        size, device = self.method.batch_size * self.method.accumulation, self.model.device
        names = [(self.runs[r].seed, self.runs[r].concept.name) for r in active.tolist()]
        draws = draw(names, step, size, self.data.shape)
        image = pick(draws.image, self.data.counts[active, None])
        side = (draws.flip < 0.5).long() if self.method.flip else torch.zeros_like(image)
        place = (active[:, None], image, side)  # each [active, batch]
        rows, weight_rows = self.data.rows[place].flatten(), self.data.weight_rows[place].flatten()
        weights, latent_weights, target_weights = (
            each if each is None else each[weight_rows.to(each.device)]
            for each in (self.data.weights, self.data.latent_weights, self.data.target_weights)
        )
        chosen = image if self.method.captions else pick(draws.template, self.templates)
        prompts = chosen.flatten()
        noise, posterior_noise = draws.noise.to(device), draws.posterior_noise.to(device)
        if self.method.crop_rescale:
            crops = crops_of(names, step, size, self.data.images.shape[-1])
            clean = self._cropped(crops, rows, posterior_noise)
            prompts = prompts + self.templates * torch.tensor([crop.prefix for crop in crops])
            weights = self._valid(crops, weights)
            if latent_weights is not None:
                latent_weights = self._moved(crops, latent_weights)
            if target_weights is not None:
                target_weights = self._moved(crops, target_weights)
        else:
            clean = self.data.latents(rows, posterior_noise)
        timesteps = self._timesteps(active, draws.timestep).to(device)
        noisy = self.model.process.corrupt(clean, noise, timesteps)
        if latent_weights is not None:
            noisy = noisy * latent_weights
        target = self.model.process.target(clean, noise, timesteps)
        owners = active.repeat_interleave(size)
        samples = Samples(owners, prompts, noisy, timesteps, target, weights)
        if target_weights is None:
            return samples
        return replace(samples, target=torch.lerp(self.untrained(samples), target, target_weights))

    def _timesteps(self, active: Tensor, uniforms: Tensor) -> Timesteps:
        """int64 [active x batch], the runs of one distribution sampled in one call."""
        result = torch.empty(uniforms.shape, dtype=torch.int64)
        groups: dict[TimestepDistribution, list[int]] = {}
        for i, r in enumerate(active.tolist()):
            groups.setdefault(self.runs[r].timesteps, []).append(i)
        for distribution, members in groups.items():
            timesteps = distribution.sample(uniforms[members].flatten(), self.model.process.steps)
            result[members] = timesteps.view(len(members), -1)
        return result.flatten()

    def _cropped(self, crops: Sequence[CropRescale], rows: Tensor, noise: Latents) -> Latents:
        """The images as cropped or rescaled now, through the encoder."""
        images = [crop.image(self.data.images[row]) for crop, row in zip(crops, rows, strict=True)]
        with torch.no_grad():
            posterior = self.model.encode(torch.stack(images).to(self.model.device))
        return posterior.sample(noise)

    def _moved(
        self, crops: Sequence[CropRescale], weights: Float[Tensor, "rows 1 h w"]
    ) -> Float[Tensor, "rows 1 h w"]:
        """The weights where what they belong to lies now."""
        size, factor = self.data.images.shape[-1], self.model.factor
        moved = [
            crop.weights(w.cpu(), size, factor) for crop, w in zip(crops, weights, strict=True)
        ]
        return torch.stack(moved).to(weights.device)

    def _valid(
        self, crops: Sequence[CropRescale], weights: Float[Tensor, "rows 1 h w"] | None
    ) -> Float[Tensor, "rows 1 h w"]:
        """The crop's mask times the concept's. The loss becomes the sum over channels and cells
        divided by the crop mask's cells, as in the released code of Custom Diffusion."""
        size, factor = self.data.images.shape[-1], self.model.factor
        valid = torch.stack([crop.valid(size, factor) for crop in crops]).to(self.model.device)
        channels, height, width = self.data.shape
        cells = valid.sum(dim=(1, 2, 3), keepdim=True)
        valid = valid * (channels * height * width / cells).sqrt()
        return valid if weights is None else valid * self._moved(crops, weights)


@torch.no_grad()
def untrained(model: Model, injection: Injection, max_batch: int, samples: Samples) -> Latents:
    """What the model predicted for the samples before the first step, float32; ``max_batch`` rows
    in one pass."""
    cuts = [samples[start : start + max_batch] for start in range(0, len(samples.runs), max_batch)]
    predictions = [injection.predict(model.predict, injection.initial, cut) for cut in cuts]
    return torch.cat(predictions).float()
