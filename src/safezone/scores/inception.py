"""FID's own features: the Inception v3 of 2015, whose weights the user gives, and its distances."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from safezone.arrays import Images
from safezone.errors import UserError
from safezone.models.fingerprint import fingerprint
from safezone.models.frozen import freeze
from safezone.scores.encoders import ImageEncoder, Pictures, Score, in_batches
from safezone.scores.metrics import frechet_distance, kernel_distance

SIDE: Final = 299

_SMALL: Final = """
branch1x1 64 1x1
branch5x5_1 48 1x1, branch5x5_2 64 5x5
branch3x3dbl_1 64 1x1, branch3x3dbl_2 96 3x3, branch3x3dbl_3 96 3x3
mean, branch_pool {} 1x1
"""
_HALVED: Final = """
branch3x3 384 3x3/2
branch3x3dbl_1 64 1x1, branch3x3dbl_2 96 3x3, branch3x3dbl_3 96 3x3/2
max/2
"""
_FACTORED: Final = """
branch1x1 192 1x1
branch7x7_1 {0} 1x1, branch7x7_2 {0} 1x7, branch7x7_3 192 7x1
branch7x7dbl_1 {0} 1x1, branch7x7dbl_2 {0} 7x1, branch7x7dbl_3 {0} 1x7, \
branch7x7dbl_4 {0} 7x1, branch7x7dbl_5 192 1x7
mean, branch_pool 192 1x1
"""
_HALVED_AGAIN: Final = """
branch3x3_1 192 1x1, branch3x3_2 320 3x3/2
branch7x7x3_1 192 1x1, branch7x7x3_2 192 1x7, branch7x7x3_3 192 7x1, branch7x7x3_4 192 3x3/2
max/2
"""
_WIDE: Final = """
branch1x1 320 1x1
branch3x3_1 384 1x1, branch3x3_2a 384 1x3 + branch3x3_2b 384 3x1
branch3x3dbl_1 448 1x1, branch3x3dbl_2 384 3x3, branch3x3dbl_3a 384 1x3 + branch3x3dbl_3b 384 3x1
{}, branch_pool 192 1x1
"""
_MIXED: Final[Mapping[str, str]] = {
    "Mixed_5b": _SMALL.format(32),
    "Mixed_5c": _SMALL.format(64),
    "Mixed_5d": _SMALL.format(64),
    "Mixed_6a": _HALVED,
    "Mixed_6b": _FACTORED.format(128),
    "Mixed_6c": _FACTORED.format(160),
    "Mixed_6d": _FACTORED.format(160),
    "Mixed_6e": _FACTORED.format(192),
    "Mixed_7a": _HALVED_AGAIN,
    "Mixed_7b": _WIDE.format("mean"),
    "Mixed_7c": _WIDE.format("max"),  # a slip of the network of 2015, which FID keeps
}
"""Blocks of branches, one a line. A branch is steps in a row: a pooling, or a convolution (its
name, its outputs, its kernel, ``/2`` for stride 2), or with ``+`` two convolutions side by side."""

_POOLINGS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    # TensorFlow leaves the padding out of the mean.
    "mean": nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    "max": nn.MaxPool2d(3, stride=1, padding=1),
    "max/2": nn.MaxPool2d(3, stride=2),
}


class _Conv(nn.Module):
    """Convolution, batch norm, ReLU. Stride 2 pads nothing, stride 1 as much as keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: str, pad: bool = True) -> None:
        super().__init__()
        kernel, halved, _ = kernel.partition("/2")
        height, width = map(int, kernel.split("x"))
        padding = (height // 2, width // 2) if pad and not halved else (0, 0)
        stride = 2 if halved else 1
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, values: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(values)))


class _Mixed(nn.Module):
    """Branches over the same input, their channels joined; ``text`` as in ``_MIXED``."""

    def __init__(self, inputs: int, text: str) -> None:
        super().__init__()
        self.branches: list[list[list[str]]] = []  # names: of branches, of steps, side by side
        self.outputs = 0
        for line in text.strip().splitlines():
            width, steps = inputs, []
            for step in line.split(", "):
                layers = [layer.split() for layer in step.split(" + ")]
                if step not in _POOLINGS:
                    for name, outputs, kernel in layers:
                        self.add_module(name, _Conv(width, int(outputs), kernel))
                    width = sum(int(outputs) for _, outputs, _ in layers)
                steps.append([layer[0] for layer in layers])
            self.branches.append(steps)
            self.outputs += width

    def forward(self, values: Tensor) -> Tensor:
        return torch.cat([self._branch(values, steps) for steps in self.branches], dim=1)

    def _branch(self, values: Tensor, steps: list[list[str]]) -> Tensor:
        for names in steps:
            layers = [_POOLINGS.get(name) or self.get_submodule(name) for name in names]
            values = torch.cat([layer(values) for layer in layers], dim=1)
        return values


class Inception(nn.Module):
    """Inception v3 (Szegedy et al. 2016) as FID uses it: 299 px in [-1, 1] to 2,048 features.

    The layers have the names of pytorch-fid's and torch-fidelity's files.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, "3x3/2")
        self.Conv2d_2a_3x3 = _Conv(32, 32, "3x3", pad=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, "3x3")
        self.Conv2d_3b_1x1 = _Conv(64, 80, "1x1")
        self.Conv2d_4a_3x3 = _Conv(80, 192, "3x3", pad=False)
        width = 192
        for name, text in _MIXED.items():
            self.add_module(name, mixed := _Mixed(width, text))
            width = mixed.outputs

    def forward(self, images: Images) -> Float[Tensor, "batch 2048"]:
        """``images``: float [batch, 3, 299, 299] in [-1, 1]."""
        values = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        values = functional.max_pool2d(values, 3, 2)
        values = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(values)), 3, 2)
        for name in _MIXED:
            values = self.get_submodule(name)(values)
        features: Tensor = values.mean(dim=(2, 3))
        return features


_BLOCKS: Final[tuple[tuple[str, ...], ...]] = (
    ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
    ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    tuple(_MIXED)[:8],
    tuple(_MIXED)[8:],
)
"""Where pytorch-fid's wrapper keeps the layers: ``blocks.2.0`` is Mixed_5b."""


def _own_name(name: str) -> str:
    match = re.match(r"blocks\.(\d)\.(\d)\.", name)
    if match is None:
        return name
    return f"{_BLOCKS[int(match[1])][int(match[2])]}.{name[match.end() :]}"


@dataclass(frozen=True, eq=False)
class InceptionEncoder:
    """The network as an image encoder.

    Images are resized as by pytorch-fid: bilinear, without antialiasing, corners not aligned.
    """

    name: str
    network: Inception
    device: torch.device

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        def encode(batch: Tensor) -> Tensor:
            pixels = batch.to(self.device).float() / 255
            size = (SIDE, SIDE)
            pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
            features: Tensor = self.network(2 * pixels - 1)
            return features

        return in_batches(images, encode)

    def fingerprint(self) -> str:
        return fingerprint(self)


def load_inception(name: str, device: torch.device | str = "cpu") -> InceptionEncoder:
    """The encoder with the weights of a safetensors file, as docs/conventions.md makes one.

    The classifier's rows and batch norm's counters may be there and are not read. Raises UserError
    for a file that is missing, is something else or lacks a layer.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {_own_name(key): value for key, value in load_file(Path(name)).items()}
    except (OSError, SafetensorError, IndexError) as error:
        raise UserError(
            f"{name}: not a safetensors file of Inception's weights ({error}); give one as "
            "docs/conventions.md shows, or none"
        ) from error
    network = Inception()
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):
            tensors[key] = value
        elif key not in tensors or tensors[key].shape != value.shape:
            there = f"has shape {list(tensors[key].shape)}" if key in tensors else "is missing"
            raise UserError(
                f"{name}: {key} {there}, and FID's Inception has {list(value.shape)}; give the "
                "weights of pytorch-fid or torch-fidelity"
            )
    network.load_state_dict({key: tensors[key] for key in wanted})
    freeze(network)
    return InceptionEncoder(name, network.to(torch.device(device)), torch.device(device))


def inception_features(encoder: ImageEncoder, pictures: Pictures) -> dict[str, Tensor]:
    """The features of both sets of images, float32 [n, 2048] and [m, 2048]."""
    return {
        "generated": encoder.features(pictures.generated),
        "clean": encoder.features(pictures.clean),
    }


def measure_inception(encoder: ImageEncoder, pictures: Pictures) -> Iterator[Score]:
    """``fid`` (Heusel et al. 2017) and ``kid`` of one run; none with fewer than two on a side."""
    generated, clean = inception_features(encoder, pictures).values()
    n, m = len(generated), len(clean)
    if min(n, m) > 1:
        yield Score("fid", frechet_distance(generated, clean), n, m)
        yield Score("kid", kernel_distance(generated, clean), n, m)


def pooled_distance(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> Score | None:
    """The FID of many runs at once: all generated images against all clean ones.

    ``runs``: the concept of each and its ``inception_features``; the clean images of a concept
    count once. None with fewer than two on a side.
    """
    generated: list[Tensor] = []
    clean: dict[str, Tensor] = {}
    for concept, features in runs:
        generated.append(features["generated"])
        clean.setdefault(concept, features["clean"])
    n, m = sum(map(len, generated)), sum(map(len, clean.values()))
    if min(n, m) < 2:
        return None
    value = frechet_distance(torch.cat(generated), torch.cat(list(clean.values())))
    return Score("fid", value, n, m)
