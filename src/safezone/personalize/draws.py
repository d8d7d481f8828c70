"""Every random number of a training step, from a stream that is counted, not advanced."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.arrays import stream


@dataclass(frozen=True, eq=False)
class Draws:
    """One step's random numbers of all runs, run after run, image after image.

    ``image``, ``flip``, ``timestep``, ``template``: float64 [runs, batch], uniform in [0, 1).
    ``posterior_noise``, ``noise``: float32 [runs x batch, channels, h, w], standard normal.
    """

    image: Float[Tensor, "runs batch"]
    flip: Float[Tensor, "runs batch"]
    timestep: Float[Tensor, "runs batch"]
    template: Float[Tensor, "runs batch"]
    posterior_noise: Float[Tensor, "rows ..."]
    noise: Float[Tensor, "rows ..."]


def draw(
    names: Sequence[tuple[int, str]], step: int, batch_size: int, shape: Sequence[int]
) -> Draws:
    """The draws of one step for runs with these seeds and concept names.

    They depend on the seed, the concept's name and the step alone: not on a run's neighbours, so
    that a run in company equals the run alone; not on the steps before, so that a resumed
    training needs no generator's state; and not on the poison, the defense or the method, so
    that these are compared under the same noise. ``shape``: [channels, h, w] of one latent.
    """
    distinct = list(dict.fromkeys(names))
    uniforms, normals = [], []
    for seed, concept in distinct:
        generator = stream(seed, concept, "train", step)
        uniforms.append(
            torch.rand(4, batch_size, dtype=torch.float64, generator=generator)
        )  # [4, batch]
        normals.append(torch.randn(2, batch_size, *shape, generator=generator))
    place = {name: i for i, name in enumerate(distinct)}
    chosen = torch.tensor([place[name] for name in names])
    image, flip, timestep, template = torch.stack(uniforms, dim=1)[:, chosen]
    posterior_noise, noise = torch.stack(normals, dim=1)[:, chosen].flatten(1, 2)
    return Draws(image, flip, timestep, template, posterior_noise, noise)


def pick(uniforms: Float[Tensor, "runs batch"], counts: Tensor | int) -> Int[Tensor, "runs batch"]:
    """int64 in [0, counts), each alike; ``counts`` broadcasts against the uniforms."""
    counts = torch.as_tensor(counts)
    return torch.minimum((uniforms * counts).long(), counts - 1)
