"""FID's own features: the Inception v3 of 2015, whose weights the user gives, and its distances."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from safezone.arrays import Images
from safezone.errors import UserError
from safezone.models.fingerprint import fingerprint
from safezone.models.frozen import freeze
from safezone.scores.instance import ImageEncoder, in_batches
from safezone.scores.metrics import DistributionDistance, frechet_distance, kernel_distance
from safezone.scores.pictures import Pictures, Score

SIDE: Final = 299
WIDTH: Final = 2048

_Kernel: TypeAlias = int | tuple[int, int]
_Layer: TypeAlias = tuple[str, int, _Kernel]
"""A convolution: its name, its outputs, its kernel; a name that ends in ``/2`` has stride 2."""
_Branch: TypeAlias = tuple[str, tuple[_Layer, ...], tuple[_Layer, ...]]
"""What comes first ("", "avg", "max", "max/2"), convolutions in a row, and those side by side."""


class _Conv(nn.Module):
    """Convolution, batch norm, ReLU. Stride 2 pads nothing, stride 1 keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: _Kernel, stride: int, pad: bool) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, values: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(values)))


def _conv(inputs: int, layer: _Layer) -> tuple[str, _Conv]:
    name, outputs, kernel = layer
    name, halved, _ = name.partition("/2")
    return name, _Conv(inputs, outputs, kernel, 2 if halved else 1, not halved)


class _Mixed(nn.Module):
    """Branches over the same input, their channels joined."""

    def __init__(self, inputs: int, branches: tuple[_Branch, ...]) -> None:
        super().__init__()
        self.branches, self.outputs = branches, 0
        for _, row, beside in branches:
            width = inputs
            for layer in row:
                self.add_module(*_conv(width, layer))
                width = layer[1]
            for layer in beside:
                self.add_module(*_conv(width, layer))
            self.outputs += sum(layer[1] for layer in beside) or width

    def forward(self, values: Tensor) -> Tensor:
        return torch.cat([self._branch(values, *branch) for branch in self.branches], dim=1)

    def _branch(
        self, values: Tensor, first: str, row: tuple[_Layer, ...], beside: tuple[_Layer, ...]
    ) -> Tensor:
        if first == "avg":  # TensorFlow leaves the padding out of the mean
            values = functional.avg_pool2d(values, 3, 1, 1, count_include_pad=False)
        elif first:
            halved = first.endswith("/2")
            values = functional.max_pool2d(values, 3, 2 if halved else 1, 0 if halved else 1)
        for name, *_ in row:
            values = self.get_submodule(name.partition("/")[0])(values)
        if not beside:
            return values
        return torch.cat([self.get_submodule(name)(values) for name, *_ in beside], dim=1)


def _row(*layers: _Layer) -> _Branch:
    return "", layers, ()


def _small(pool: int) -> tuple[_Branch, ...]:
    return (
        _row(("branch1x1", 64, 1)),
        _row(("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        _row(("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        ("avg", (("branch_pool", pool, 1),), ()),
    )


def _factored(c: int) -> tuple[_Branch, ...]:
    return (
        _row(("branch1x1", 192, 1)),
        _row(("branch7x7_1", c, 1), ("branch7x7_2", c, (1, 7)), ("branch7x7_3", 192, (7, 1))),
        _row(
            ("branch7x7dbl_1", c, 1),
            ("branch7x7dbl_2", c, (7, 1)),
            ("branch7x7dbl_3", c, (1, 7)),
            ("branch7x7dbl_4", c, (7, 1)),
            ("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("avg", (("branch_pool", 192, 1),), ()),
    )


def _wide(pool: str) -> tuple[_Branch, ...]:
    def split(name: str) -> tuple[_Layer, ...]:
        return (f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))

    return (
        _row(("branch1x1", 320, 1)),
        ("", (("branch3x3_1", 384, 1),), split("branch3x3_2")),
        ("", (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)), split("branch3x3dbl_3")),
        (pool, (("branch_pool", 192, 1),), ()),
    )


_HALVED: Final[tuple[_Branch, ...]] = (
    _row(("branch3x3/2", 384, 3)),
    _row(("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3/2", 96, 3)),
    ("max/2", (), ()),
)
_HALVED_AGAIN: Final[tuple[_Branch, ...]] = (
    _row(("branch3x3_1", 192, 1), ("branch3x3_2/2", 320, 3)),
    _row(
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4/2", 192, 3),
    ),
    ("max/2", (), ()),
)
_MIXED: Final[Mapping[str, tuple[_Branch, ...]]] = {
    "Mixed_5b": _small(32),
    "Mixed_5c": _small(64),
    "Mixed_5d": _small(64),
    "Mixed_6a": _HALVED,
    "Mixed_6b": _factored(128),
    "Mixed_6c": _factored(160),
    "Mixed_6d": _factored(160),
    "Mixed_6e": _factored(192),
    "Mixed_7a": _HALVED_AGAIN,
    "Mixed_7b": _wide("avg"),
    "Mixed_7c": _wide("max"),  # a slip of the network of 2015, which FID keeps
}


class Inception(nn.Module):
    """Inception v3 (Szegedy et al. 2016) as FID uses it: 299 px in [-1, 1] to 2,048 features.

    The layers have the names of pytorch-fid's and torch-fidelity's files.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2, False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, 1, False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, 1, True)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1, 1, False)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, 1, False)
        width = 192
        for name, branches in _MIXED.items():
            self.add_module(name, mixed := _Mixed(width, branches))
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
        """float32 [n, 2048] on the CPU of uint8 images [n, 3, h, w]; ValueError for none."""

        def encode(batch: Tensor) -> Tensor:
            pixels = batch.to(self.device).float() / 255
            size = (SIDE, SIDE)
            pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
            features: Tensor = self.network(2 * pixels - 1)
            return features

        return in_batches(images, encode)

    def fingerprint(self) -> str:
        """A hash of all weights."""
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
        yield Score("fid", float(frechet_distance(generated, clean)), n, m)
        yield Score("kid", float(kernel_distance(generated, clean)), n, m)


def pooled_distance(
    runs: Iterable[tuple[str, Mapping[str, Any]]],
) -> DistributionDistance | None:
    """The FID of many runs at once: all generated images against all clean ones.

    ``runs``: the concept of each and its ``inception_features``; the clean images of a concept
    count once. None with fewer than two on a side.
    """
    generated: list[Tensor] = []
    clean: dict[str, Tensor] = {}
    for concept, features in runs:
        generated.append(features["generated"])
        clean.setdefault(concept, features["clean"])
    if min(sum(map(len, generated)), sum(map(len, clean.values()))) < 2:
        return None
    return frechet_distance(torch.cat(generated), torch.cat(list(clean.values())))
