"""FID's network by its published layout, and its distances by scipy's square root."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import linalg
from torch import Tensor
from torch.nn import functional

from safezone.arrays import randn, stream
from safezone.errors import UserError
from safezone.scores.encoders import Pictures
from safezone.scores.inception import (
    Inception,
    InceptionEncoder,
    load_inception,
    measure_inception,
    pooled_distance,
)
from safezone.scores.metrics import frechet_distance

# Of the published files; the whole without classifier has 21,785,568 parameters.
SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_4a_3x3.bn.running_var": (192,),
    "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
    "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6c.branch7x7dbl_5.conv.weight": (192, 160, 1, 7),
    "Mixed_6e.branch7x7_3.conv.weight": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch1x1.conv.weight": (320, 1280, 1, 1),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
}


@pytest.fixture(scope="module")
def network() -> Inception:
    """Random weights and random statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Inception().eval()
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "running_var", "bn.weight", "bn.bias")):
                value.copy_(torch.rand_like(value) + 0.2)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def weights(network: Inception, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path


def test_the_layers_are_those_of_the_published_files(network: Inception) -> None:
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_785_568


def layer(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    """One convolution of the file by torch's own functions: same padding, epsilon 0.001."""
    kernel = state[f"{name}.conv.weight"]
    values = functional.conv2d(values, kernel, padding=tuple(k // 2 for k in kernel.shape[2:]))
    mean, variance, weight, bias = (
        state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(values, mean, variance, weight, bias, eps=1e-3).relu()


def test_the_last_block_pools_by_maximum_and_the_first_by_a_mean_without_padding(
    network: Inception,
) -> None:
    state = network.state_dict()
    values = randn([stream("mixed")], (2048, 8, 8)).relu()

    def of(block: str, name: str, values: Tensor) -> Tensor:
        return layer(state, f"{block}.{name}", values)

    a = of("Mixed_7c", "branch3x3_1", values)
    b = of("Mixed_7c", "branch3x3dbl_2", of("Mixed_7c", "branch3x3dbl_1", values))
    expected = torch.cat(
        [
            of("Mixed_7c", "branch1x1", values),
            *(of("Mixed_7c", f"branch3x3_2{side}", a) for side in "ab"),
            *(of("Mixed_7c", f"branch3x3dbl_3{side}", b) for side in "ab"),
            of("Mixed_7c", "branch_pool", functional.max_pool2d(values, 3, 1, 1)),
        ],
        dim=1,
    )
    torch.testing.assert_close(network.get_submodule("Mixed_7c")(values), expected)
    ones = torch.ones(1, 192, 5, 5)
    pooled = network.get_submodule("Mixed_5b")(ones)[:, -32:]
    torch.testing.assert_close(pooled, of("Mixed_5b", "branch_pool", ones))  # the mean of ones is 1


def test_files_of_both_layouts_are_read_and_the_rest_is_passed_over(
    weights: Path, network: Inception, tmp_path: Path
) -> None:
    images = torch.randint(0, 256, (1, 3, 40, 40), generator=stream("i")).to(torch.uint8)
    expected = InceptionEncoder("own", network, torch.device("cpu")).features(images)
    assert expected.shape == (1, 2048)
    assert expected.std() > 0
    bare = load_inception(str(weights)).features(images)
    torch.testing.assert_close(bare, expected)
    wrapped = {"fc.weight": torch.zeros(1008, 2048)}
    places = {"Conv2d_1a": "0.0", "Conv2d_2a": "0.1", "Conv2d_2b": "0.2", "Conv2d_3b": "1.0"}
    places |= {"Conv2d_4a": "1.1"} | {f"Mixed_5{c}": f"2.{i}" for i, c in enumerate("bcd")}
    places |= {f"Mixed_6{c}": f"2.{i + 3}" for i, c in enumerate("abcde")}
    places |= {f"Mixed_7{c}": f"3.{i}" for i, c in enumerate("abc")}
    for name, value in network.state_dict().items():
        first, rest = name.split(".", 1)
        if not name.endswith("num_batches_tracked"):
            wrapped[f"blocks.{places[first[:9].removesuffix('_')]}.{rest}"] = value.contiguous()
    save_file(wrapped, tmp_path / "blocks.safetensors")
    read = load_inception(str(tmp_path / "blocks.safetensors"))
    assert torch.equal(read.features(images), bare)
    assert read.fingerprint() == load_inception(str(weights)).fingerprint()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (None, "not a safetensors file"),
        ({"x": torch.zeros(1)}, "Conv2d_1a_3x3.conv.weight is missing"),
        ({"Conv2d_1a_3x3.conv.weight": torch.zeros(2)}, r"has shape \[2\], .* \[32, 3, 3, 3\]"),
        ({"blocks.3.9.conv.weight": torch.zeros(1)}, "not a safetensors file"),
    ],
)
def test_other_files_are_refused(
    tensors: dict[str, Tensor] | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    if tensors is None:
        path.write_bytes(b"no tensors")
    else:
        save_file(tensors, path)
    with pytest.raises(UserError, match=f"{path}: .*{words}"):
        load_inception(str(path))


def by_scipy(first: Tensor, second: Tensor) -> float:
    a, b = first.double().numpy(), second.double().numpy()
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    return float(mean + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root))


class Slices:
    """Features that are known: rows of a matrix, by the first pixel."""

    name = "slices"
    rows = randn([stream("rows", i) for i in range(200)], (24,)).cumsum(dim=1)

    def features(self, images: Tensor) -> Tensor:
        return self.rows[images[:, 0, 0, 0].long()]

    def fingerprint(self) -> str:
        return self.name


def pictures(first: range, second: range) -> Pictures:
    def images(of: range) -> Tensor:
        return torch.tensor(of, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)

    return Pictures(images(first), [], images(second))


def test_the_distance_is_scipys_in_double_precision() -> None:
    scores = {s.metric: s for s in measure_inception(Slices(), pictures(range(90), range(90, 200)))}
    expected = by_scipy(Slices.rows[:90], Slices.rows[90:])
    assert scores["fid"].value == pytest.approx(expected, rel=1e-9)
    assert (scores["fid"].n_generated, scores["fid"].n_reference) == (90, 110)
    assert scores["kid"].value != scores["fid"].value
    assert list(measure_inception(Slices(), pictures(range(1), range(5)))) == []


def test_pooled_runs_are_one_set_and_a_concepts_references_count_once() -> None:
    def run(first: int, clean: range) -> dict[str, Tensor]:
        return {"generated": Slices.rows[first : first + 20], "clean": Slices.rows[list(clean)]}

    cup, toy = range(150, 170), range(170, 200)
    runs = [("Cup", run(0, cup)), ("Cup", run(20, cup)), ("Toy", run(40, toy))]
    distance = pooled_distance(runs)
    assert distance is not None
    assert (distance.n_generated, distance.n_reference) == (60, 50)
    assert distance.value == pytest.approx(by_scipy(Slices.rows[:60], Slices.rows[150:]), rel=1e-9)
    assert distance.value == float(frechet_distance(Slices.rows[:60], Slices.rows[150:]))
    one = {"generated": Slices.rows[:1], "clean": Slices.rows[:9]}
    assert pooled_distance([("Cup", one)]) is None
    assert pooled_distance([]) is None
