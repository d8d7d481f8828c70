"""Purifiers: their steps, their sampler and their crops, on models whose answer is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from safezone.arrays import rand, stream
from safezone.defenses import GridPure, Impress, PDMPure, Regen, defense, resolve
from safezone.defenses.pixel_purify import _on_crops, clip, dynamic_threshold, renew
from safezone.defenses.purify import fingerprints, networks
from safezone.errors import UserError
from safezone.images import to_uint8
from safezone.models import Epsilon, Model
from safezone.models.pixel import Denoiser, PixelModel

ALPHAS = torch.linspace(0.9999, 0.02, 1000).double().float()


@dataclass(frozen=True, eq=False)
class Oracle(PixelModel):
    """A model of pixels that knows the clean image."""

    clean: Tensor

    def denoiser(self, images: Tensor, generators: Sequence[torch.Generator]) -> Denoiser:
        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            alpha = ALPHAS[timesteps].view(-1, 1, 1, 1)
            return (noisy - alpha.sqrt() * (self.clean * 2 - 1)) / (1 - alpha).sqrt()

        return predict


def oracle(clean: Tensor, kind: type[Oracle] = Oracle) -> Oracle:
    return kind("oracle", None, Epsilon(ALPHAS), torch.device("cpu"), clean)


@pytest.mark.parametrize("steps", [[10], [90, 60, 30, 0], list(range(10, -1, -1))])
def test_the_sampler_ends_at_what_the_model_knows(steps: list[int]) -> None:
    clean = rand([stream("clean")], (3, 16, 16))
    dirty = (clean + 0.05 * torch.randn(clean.shape, generator=stream("dirt"))).clamp(0, 1)
    found = renew(oracle(clean), dirty, steps, [stream(0)])
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=0)


def test_the_sampler_keeps_the_noise_level_of_every_timestep() -> None:
    """With the posterior's variance a white image's noisy version has variance 1 - alpha_bar."""
    seen: dict[int, float] = {}

    class Watching(Oracle):
        def denoiser(self, images: Tensor, generators: Sequence[torch.Generator]) -> Denoiser:
            predict = super().denoiser(images, generators)

            def watch(noisy: Tensor, timesteps: Tensor) -> Tensor:
                t = int(timesteps[0])
                seen[t] = float((noisy - ALPHAS[t].sqrt()).square().mean() / (1 - ALPHAS[t]))
                return predict(noisy, timesteps)

            return watch

    white = torch.ones(1, 3, 64, 64)
    renew(oracle(white, Watching), white, [500, 400, 250, 100, 20], [stream(3)])
    assert list(seen) == [500, 400, 250, 100, 20]
    assert all(value == pytest.approx(1, abs=0.06) for value in seen.values())


def test_thresholds() -> None:
    values = torch.linspace(-3, 3, 101).view(1, 1, 1, 101)
    assert clip(values).abs().max() == 1
    found = dynamic_threshold(0.9)(values)
    assert found.abs().max() == 1
    assert int((found.abs() == 1).sum()) in range(9, 13)
    small = values / 10
    assert torch.equal(dynamic_threshold(0.9)(small), small)


@pytest.mark.parametrize("side", [10, 16, 24, 40, 45])
def test_crops_cover_every_pixel_and_average_where_they_overlap(side: int) -> None:
    image = rand([stream("image")], (3, side, side))
    sizes: list[int] = []

    def act(part: Tensor) -> Tensor:
        sizes.append(part.shape[-1])
        return part * 2

    torch.testing.assert_close(_on_crops(image, 16, act), image * 2)
    assert set(sizes) == {min(16, side)}


def test_regen_walks_60_40_20_0_of_1000() -> None:
    assert Regen().timesteps(1000) == [60, 40, 20, 0]
    assert Regen().timesteps(50) == [3, 2, 1, 0]
    assert Regen(100, 50).timesteps(1000) == [100, 50, 0]


def test_regen_with_a_network_that_is_right_is_the_autoencoder(tiny_model: Model) -> None:
    """A prediction that is the target of the true noise brings back the decoded sample."""
    image = rand([stream("image")], (3, 64, 64))
    posterior = tiny_model.encode(image)
    generator = stream("regen")
    sample = posterior.sample(torch.randn(1, *posterior.mean.shape[1:], generator=generator))

    class Right:
        def __getattr__(self, name: str) -> object:
            return getattr(tiny_model, name)

        def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: object) -> Tensor:
            noise = tiny_model.process.to_noise(noisy, noisy, timesteps) * 0
            alpha = tiny_model.process.alphas_cumprod[timesteps]  # type: ignore[attr-defined]
            found: Tensor = noise + (noisy - alpha.sqrt() * sample) / (1 - alpha).sqrt()
            return found

    found = Regen()._clean(Right(), image, stream("regen"))  # type: ignore[arg-type]
    torch.testing.assert_close(found, tiny_model.decode(sample), atol=1e-3, rtol=1e-3)


def test_regen_runs_on_the_model_that_is_personalized_and_names_it_as_its_network(
    tiny_model: Model,
) -> None:
    chain = defense("jpeg+regen+blur").preprocess
    assert networks(chain) == ()
    ready = resolve(chain, tiny_model)
    assert networks(ready) == (tiny_model,)
    assert fingerprints(chain, tiny_model) == [tiny_model.fingerprint()]
    images = to_uint8(rand([stream("a"), stream("b")], (3, 64, 64)))
    assert torch.equal(ready(images, 1), ready(images, 1))
    assert not torch.equal(ready(images, 1), ready(images, 2))
    assert resolve(defense("jpeg").preprocess, None) == defense("jpeg").preprocess
    with pytest.raises(UserError, match="regen needs the latent diffusion model"):
        resolve(chain, None)


def test_impress_lowers_what_it_minimises_and_stays_near(tiny_model: Model) -> None:
    images = to_uint8(rand([stream("impress")], (3, 64, 64)))
    purifier = Impress(steps=20)
    found = resolve(purifier, tiny_model)(images, 0)
    before, after = images.float() / 255, found.float() / 255
    with torch.no_grad():
        first = purifier.loss(tiny_model, before, before)
        last = purifier.loss(tiny_model, after, before)
    assert float(last) < 0.97 * float(first)
    assert float((after - before).abs().max()) <= 20 * 0.01 + 1 / 255


@pytest.mark.parametrize(
    "make",
    [
        lambda: Regen(start=0),
        lambda: Impress(steps=0),
        lambda: GridPure(rounds=0),
        lambda: PDMPure(start=1000),
        lambda: PDMPure(threshold=0),
    ],
)
def test_settings_out_of_range_are_refused(make: type[Regen]) -> None:
    with pytest.raises(UserError, match="give"):
        make()
