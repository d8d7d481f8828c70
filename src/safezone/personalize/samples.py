"""What the runs see in one step: noisy latents, prompts, targets and where the loss counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.arrays import Latents, Timesteps
from safezone.defenses.timesteps import TimestepDistribution
from safezone.models.base import Model, Posterior
from safezone.personalize.draws import CropRescale, crops_of, draw, pick
from safezone.personalize.injection import Injection, Samples
from safezone.personalize.personalization import Personalization, PreparedRun
from safezone.personalize.posteriors import PriorData, TrainingData


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
