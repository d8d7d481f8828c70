"""A lab of two concepts of noise on the tiny model: everything that a grid needs, in seconds."""

from pathlib import Path

import torch

from safezone.concepts import Concept
from safezone.lab.lab import Lab
from safezone.lab.run import Grid
from safezone.lab.settings import Cells, Poisoning, Sampling, Settings
from safezone.lab.training import Training
from safezone.models import Model, load_model
from safezone.scores import Encoders

SETTINGS = Settings(
    model="tiny",
    poisoning=Poisoning(steps=1),
    training=Training(steps=2, batch_size=1, learning_rate=1e-2, runs_per_pass=2),
    sampling=Sampling(("a {}",), steps=2),
    cells=Cells(1, 1, ("adm+",), ("nominal", "szt"), poison_seed=0),
)


class MeanColour:
    """An encoder of three numbers."""

    name = "mean colour"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))

    def fingerprint(self) -> str:
        return self.name


def concept(name: str, shade: int = 90) -> Concept:
    generator = torch.Generator().manual_seed(shade)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    return Concept(
        name=name, class_word="toy", images=images, masks=masks, image_names=("a", "b", "c")
    )


def small_lab(folder: Path, model: Model) -> Lab:
    concepts = {name: concept(name, i) for i, name in enumerate(("One", "Two"))}
    encoders = Encoders({"instance": MeanColour()}, "mean colour")
    return Lab(folder, model, encoders, SETTINGS, concepts)


def open_small_lab(folder: Path, model: Path) -> Lab:
    """For workers, which open the model themselves."""
    torch.set_num_threads(1)
    return small_lab(folder, load_model(model))


def grid(lab: Lab, poisons: tuple[str, ...] = ("clean", "adm+"), seeds: int = 1) -> Grid:
    return Grid.product(
        "test",
        concepts=list(lab.concepts),
        poisons=poisons,
        defenses=("nominal", "szt"),
        seeds=range(seeds),
        model="tiny",
    )
