"""Purifiers: preprocesses that need a model, and get it where the run's model is known.

A purifier is a value, its settings; ``bind`` opens the networks that it works with. Stages take
the settings and the networks' weights into their keys, so that keys stay keys of contents.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from safezone.arrays import Images, Pixels, randn, stream
from safezone.defenses.preprocess import Chain, Preprocess
from safezone.errors import UserError
from safezone.fields import Checked, Count, Portion, Share
from safezone.image_metrics import ssim
from safezone.images import to_float, to_uint8
from safezone.models.base import Model
from safezone.models.denoise import denoise
from safezone.models.fingerprint import Fingerprinted
from safezone.models.pixel import load_upscaler

TimestepOf1000: TypeAlias = Annotated[int, Field(ge=1, lt=1000)]


@dataclass(frozen=True, eq=False)
class Bound:
    """A purifier with its networks: a preprocess like any other.

    ``clean``: one image, [1, 3, h, w] in [0, 1], and its stream to the purified image.
    """

    networks: tuple[Fingerprinted, ...]
    clean: Callable[[Images, torch.Generator], Images]
    device: torch.device

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        """Every image alone, from a stream of its own: no image depends on its neighbours."""
        purified = [
            self.clean(to_float(image[None]).to(self.device), stream(seed, "purify", i)).cpu()
            for i, image in enumerate(images)
        ]
        return to_uint8(torch.cat(purified)).to(images.device)


class Purifier(ABC):
    """Settings of a preprocess that needs a model."""

    @abstractmethod
    def bind(self, model: Model | None) -> Bound:
        """With its networks; ``model`` is the one that is personalized, None where there is none.

        Raises UserError for networks that cannot be opened, or a model that is needed and absent.
        """

    def __call__(self, images: Pixels, seed: int) -> Pixels:
        raise UserError(
            f"{type(self).__name__} needs a model; call defend(concept, defense, seed, model)."
        )


def resolve(preprocess: Preprocess, model: Model | None) -> Preprocess:
    """The preprocess ready to run: purifiers are given their networks, the rest stays.

    Raises UserError as ``Purifier.bind`` does.
    """
    if isinstance(preprocess, Purifier):
        return preprocess.bind(model)
    if isinstance(preprocess, Chain):
        return Chain(tuple(resolve(part, model) for part in preprocess.parts))
    return preprocess


def networks(resolved: Preprocess) -> tuple[Fingerprinted, ...]:
    """The models that a resolved preprocess works with."""
    if isinstance(resolved, Chain):
        return tuple(network for part in resolved.parts for network in networks(part))
    return resolved.networks if isinstance(resolved, Bound) else ()


def fingerprints(preprocess: Preprocess, model: Model | None) -> list[str]:
    """Those of the networks that a preprocess works with, for its key; none but for purifiers.

    Raises UserError when one of them cannot be opened.
    """
    return [network.fingerprint() for network in networks(resolve(preprocess, model))]


def _latent_model(model: Model | None, name: str) -> Model:
    if model is None:
        raise UserError(f"{name} needs the latent diffusion model; give defend(..., model=model).")
    return model


@dataclass(frozen=True)
class Regen(Checked, Purifier):
    """Regeneration (Zhao et al.): encode, noise to ``start``, denoise without a prompt, decode.

    On the model that is personalized or another (``purify_model``), at the images' own size.
    ``start`` and ``stride`` are timesteps of 1000: DDIM without noise at 60, 40, 20, 0, which is
    what a schedule of 50 steps has from 60 down (diffusers' steps_offset would say 61, 41, 21, 1);
    models with another number of steps, and rectified flow, take the same fractions. The latents
    are one posterior sample. The empty prompt stands on both sides of guidance, which therefore
    cancels.
    """

    start: TimestepOf1000 = 60
    stride: Annotated[int, Field(ge=1, le=1000)] = 20

    def bind(self, model: Model | None) -> Bound:
        latent = _latent_model(model, "regen")
        return Bound((latent,), lambda image, g: self._clean(latent, image, g), latent.device)

    def timesteps(self, steps: int) -> list[int]:
        """From the start down, as integers of a process with so many steps."""
        return [round(t * steps / 1000) for t in range(self.start, -1, -self.stride)]

    @torch.no_grad()
    def _clean(self, model: Model, image: Images, generator: torch.Generator) -> Images:
        posterior, process = model.encode(image), model.process
        shape, timesteps = posterior.mean.shape[1:], self.timesteps(process.steps)
        clean = posterior.sample(randn([generator], shape).to(image))
        noise = randn([generator], shape).to(image)
        first = torch.tensor([timesteps[0]], device=image.device)
        conditioning = model.embed_text(model.tokenize([""]))
        purified = denoise(
            process,
            lambda noisy, t: model.predict(noisy, t, conditioning),
            process.corrupt(clean, noise, first),
            timesteps,
        )
        return model.decode(purified)


@dataclass(frozen=True)
class Impress(Checked, Purifier):
    """IMPRESS (Cao et al.): the image nearby that the autoencoder gives back unchanged.

    Minimises |decode(encode(x)) - x|^2 + ``weight`` max(0, (1 - SSIM(x, x0)) / 2 - ``bound``) over
    x by Adam, with the posterior's mean, for ``steps`` steps. The original bounds LPIPS, whose
    weights this package does not have: structural dissimilarity stands in its place, so its
    numbers are not the original's.
    """

    steps: Count = 300
    learning_rate: Share = 0.01
    weight: float = 0.5
    bound: Portion = 0.1

    def bind(self, model: Model | None) -> Bound:
        latent = _latent_model(model, "impress")
        return Bound((latent,), lambda image, g: self._clean(latent, image), latent.device)

    def loss(self, model: Model, image: Images, original: Images) -> Tensor:
        """What is minimised, a scalar."""
        inconsistency = (model.decode(model.encode(image).mean) - image).square().mean()
        dissimilarity = (1 - ssim(image.cpu(), original.cpu()).sum()) / 2
        excess = (dissimilarity - self.bound).clamp(min=0).to(inconsistency)
        return inconsistency + self.weight * excess

    @torch.enable_grad()
    def _clean(self, model: Model, original: Images) -> Images:
        image = original.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([image], lr=self.learning_rate)
        for _ in range(self.steps):
            (image.grad,) = torch.autograd.grad(self.loss(model, image, original), image)
            optimiser.step()
            with torch.no_grad():
                image.clamp_(0, 1)
        return image.detach()


@dataclass(frozen=True)
class RoundTrip(Purifier):
    """Through the autoencoder of the model that is personalized, and back (posterior mean)."""

    def bind(self, model: Model | None) -> Bound:
        latent = _latent_model(model, "vae")
        clean = torch.no_grad()(lambda image, _: latent.decode(latent.encode(image).mean))
        return Bound((latent,), clean, latent.device)


@dataclass(frozen=True)
class NoisyUpscaling(Purifier):
    """Noisy upscaling (Hönig et al., 2406.12027): noise, a four-fold upscaler, and a resize back.

    ``noise``: its standard deviation, pixels in [0, 1]. ``upscaler``: a folder or hub name of
    Stable Diffusion's four-fold one.
    """

    noise: float = 0.1
    upscaler: str = "stabilityai/stable-diffusion-x4-upscaler"

    def bind(self, model: Model | None) -> Bound:
        upscaler = load_upscaler(self.upscaler, None if model is None else str(model.device))

        @torch.no_grad()
        def clean(image: Images, generator: torch.Generator) -> Images:
            noise = randn([generator], image.shape[1:]).to(image)
            large = upscaler((image + self.noise * noise).clamp(0, 1), generator)
            return interpolate(large, image.shape[-2:], mode="area")

        return Bound((upscaler,), clean, torch.device("cpu") if model is None else model.device)
