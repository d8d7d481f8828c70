"""The instance encoder: features whose cosine says how much of an object's identity is kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from safezone import miniworld
from training.corpus import write_array
from training.encoders import SIDE, augment, settle_batch_norm, shrink, small_resnet
from training.loop import Budget, train

TRAITS: Final[dict[str, float]] = {
    "shape": 3.0,
    "color": 3.0,
    "pattern": 1.5,
    "second_color": 1.5,
    "emblem": 1.0,
    "hat": 1.0,
    "ears": 1.0,
    "tone": 1.0,
}
"""What makes an object's identity, and how much of it."""


def likeness(objects: list[miniworld.ObjectSpec]) -> Tensor:
    """How alike objects are: float32 [n, n] in [0, 1], 1 for the same object.

    The weighted share of common traits among the traits that either of the two has; a part that
    both lack says nothing.
    """
    shared, present = torch.zeros(len(objects), len(objects)), torch.zeros(())
    for trait, weight in TRAITS.items():
        values = [getattr(each, trait) for each in objects]
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        codes = torch.tensor([numbers[value] for value in values])
        there = torch.tensor([value is not None for value in values])
        either = there[:, None] | there[None]
        shared = shared + weight * ((codes[:, None] == codes[None]) & either)
        present = present + weight * either
    return shared / present


class InstanceNetwork(nn.Module):
    """A small residual network and a projection to 128 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = small_resnet((64, 128, 256), 6)
        self.projection = nn.Linear(256, 128, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = self.backbone(pixel_values=pixels).pooler_output.flatten(1)
        projected: Tensor = self.projection(pooled)
        return projected


@dataclass(frozen=True)
class Pairs:
    """Two scenes each of many objects: uint8 [n, 2, 3, 64, 64], and the objects."""

    images: NDArray[np.uint8]
    objects: list[miniworld.ObjectSpec]


def render_pairs(folder: Path, seed: int, count: int) -> Pairs:
    """Two scenes each of ``count`` random objects, kept on disk."""
    path = folder / f"pairs-{seed}-{count}.npy"
    if not path.exists():
        found = np.empty((count, 2, 3, SIDE, SIDE), np.uint8)
        for index in tqdm(range(count), desc="render pairs", mininterval=5):
            scenes = miniworld.instance_pair(np.random.default_rng([seed, index]))
            both = np.stack([miniworld.render(s).image.transpose(2, 0, 1) for s in scenes])
            found[index] = ((shrink(both) + 1) * 127.5).round().to(torch.uint8).numpy()
        write_array(path, found)
    objects = [
        miniworld.instance_pair(np.random.default_rng([seed, index]))[0].spec
        for index in range(count)
    ]
    return Pairs(np.load(path, mmap_mode="r"), objects)


def train_instance(
    folder: Path, pairs: Pairs, budget: Budget, device: torch.device, *, batch: int
) -> InstanceNetwork:
    """Cosines of the features regress the likeness of the objects, over all pairs of a batch.

    A graded target, as the similarity of a large encoder is graded: an image that keeps shape and
    colours but has lost the hat is nearer than one that has lost everything. (A contrastive loss
    gives both a cosine of zero.)
    """
    model = InstanceNetwork().train().to(device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([6, step])
        rows = np.sort(rng.choice(len(pairs.images), batch, replace=False))
        chosen = torch.from_numpy(pairs.images[rows]).float().transpose(0, 1).flatten(0, 1)
        features = model(augment(chosen / 127.5 - 1, rng).to(device)).cpu()
        features = functional.normalize(features, dim=1)
        target = likeness([pairs.objects[row] for row in rows]).repeat(2, 2)
        same = torch.eye(batch).repeat(2, 2) * (batch / 4)  # rare among the pairs, and the point
        same.fill_diagonal_(0.0)
        return ((1 + same) * (features @ features.T - target).square()).mean()

    train("instance", folder, {"instance": model}, loss_at, budget, 2e-3, ema=0.995)
    model.cpu()
    settle_batch_norm(model, pairs.images[:1000].reshape(-1, 3, SIDE, SIDE), model)
    return model.eval().requires_grad_(False)


def save_instance(folder: Path, model: InstanceNetwork) -> None:
    """The backbone as a stock ResNetModel folder, the projection beside it, half precision."""
    model.backbone.half().save_pretrained(folder)
    save_file({"weight": model.projection.weight.half()}, folder / "projection.safetensors")
    model.float()
