"""Frozen layers: what stock layers compute, the same bits in any company, and no stale weights."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safezone.models import frozen
from safezone.models.frozen import (
    FrozenConv2d,
    FrozenLinear,
    LargeFrozenLinear,
    freeze,
    stock_kernels,
)

# (layer, one row's input size)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear of vectors": (lambda: nn.Linear(64, 256), (64,)),
    "linear of tokens": (lambda: nn.Linear(96, 33, bias=False), (24, 96)),
    "1 x 1": (lambda: nn.Conv2d(48, 16, 1), (48, 4, 4)),
    "3 x 3": (lambda: nn.Conv2d(24, 40, 3, padding=1), (24, 8, 8)),
    "few channels": (lambda: nn.Conv2d(4, 64, 3, padding=1), (4, 16, 16)),
    "stride": (lambda: nn.Conv2d(32, 32, 3, stride=2, padding=1), (32, 8, 8)),
    "stride, odd size": (lambda: nn.Conv2d(8, 8, 3, stride=2), (8, 17, 12)),
    "no bias, not square": (lambda: nn.Conv2d(8, 6, (3, 5), padding=(1, 2), bias=False), (8, 9, 4)),
}

each_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str) -> tuple[Any, Any, Tensor]:
    """A layer, the same frozen, and 33 rows."""
    torch.manual_seed(3)
    new, size = LAYERS[name]
    layer = new()
    cold = copy.deepcopy(layer)
    freeze(cold)
    return layer, cold, torch.randn(33, *size)


def forth_and_back(layer: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the gradient at the input of a sum that weighs all outputs differently."""
    given = given.clone().requires_grad_(True)
    output = layer(given)
    (output * torch.linspace(-1, 2, output[0].numel()).view(output[0].shape)).sum().backward()
    assert given.grad is not None
    return output.detach(), given.grad


@each_layer
def test_a_frozen_layer_computes_what_the_stock_layer_does(name: str) -> None:
    layer, cold, rows = make(name)
    assert type(cold) is not type(layer)
    assert isinstance(cold, type(layer))
    for ours, stock in zip(forth_and_back(cold, rows), forth_and_back(layer, rows), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(cold(rows), layer(rows), rtol=1e-4, atol=1e-5)


@each_layer
def test_a_row_is_the_same_in_any_company(name: str) -> None:
    _, cold, rows = make(name)
    output, gradient = forth_and_back(cold, rows)
    for start, stop in ((0, 1), (32, 33), (4, 6), (1, 4), (0, 16), (0, 32)):
        part = forth_and_back(cold, rows[start:stop])
        assert torch.equal(part[0], output[start:stop])
        assert torch.equal(part[1], gradient[start:stop])


@each_layer
def test_changed_weights_are_noticed(name: str) -> None:
    layer, cold, rows = make(name)
    cold(rows)
    changes: list[Callable[[Any], Any]] = [
        lambda each: each.half().float(),
        lambda each: each.weight.mul_(2),
    ]
    for change in changes:
        with torch.no_grad():
            change(layer)
            change(cold)
            torch.testing.assert_close(cold(rows), layer(rows), rtol=1e-4, atol=1e-5)


@each_layer
def test_a_copy_has_its_own_weights(name: str) -> None:
    _, cold, rows = make(name)
    before = cold(rows)
    twin = copy.deepcopy(cold)
    with torch.no_grad():
        twin.weight.zero_()
        if twin.bias is not None:
            twin.bias.zero_()
    assert not twin(rows).any()
    assert torch.equal(cold(rows), before)


@each_layer
def test_other_precisions_and_trained_weights_take_the_stock_path(name: str) -> None:
    layer, cold, rows = make(name)
    assert torch.equal(cold.double()(rows.double()), layer.double()(rows.double()))
    cold.float().requires_grad_(True)
    cold(rows).sum().backward()
    assert cold.weight.grad is not None and cold.weight.grad.any()


def test_images_of_another_size_need_no_other_layer() -> None:
    layer, cold, _ = make("3 x 3")
    for size in ((8, 8), (5, 12), (8, 8), (33, 16)):
        rows = torch.randn(2, 24, *size)
        for ours, stock in zip(
            forth_and_back(cold, rows), forth_and_back(layer, rows), strict=True
        ):
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


def test_a_large_network_keeps_no_second_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_KEPT_LIMIT", 1000)
    layer = nn.Sequential(nn.Conv2d(24, 40, 3), nn.Flatten(), nn.Linear(40, 7))
    cold = copy.deepcopy(layer)
    freeze(cold)
    assert [type(part) for part in cold] == [nn.Conv2d, nn.Flatten, LargeFrozenLinear]
    rows = torch.randn(5, 24, 3, 3)
    for ours, stock in zip(forth_and_back(cold, rows), forth_and_back(layer, rows), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


def test_layers_that_differ_stay_as_they_are() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3),
        nn.Linear(4, 4),
    )
    freeze(network)
    assert [type(part) for part in network] == [*[nn.Conv2d] * 4, FrozenConv2d, FrozenLinear]
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_within_stock_kernels_all_is_torchs_own() -> None:
    layer, cold, rows = make("3 x 3")
    with stock_kernels():
        assert torch.equal(cold(rows), layer(rows))


def test_second_derivatives_are_refused_but_not_with_stock_kernels() -> None:
    _, cold, rows = make("linear of vectors")
    rows.requires_grad_(True)
    with pytest.raises(NotImplementedError, match="stock_kernels"):
        torch.autograd.grad(cold(rows).square().sum(), rows, create_graph=True)
    with stock_kernels():
        (first,) = torch.autograd.grad(cold(rows).square().sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), rows)
    assert second.any()


def test_a_compiled_network_uses_the_compilers_kernels() -> None:
    layer, cold, rows = make("3 x 3")
    compiled: Any = torch.compile(cold, backend="eager", fullgraph=True)
    assert torch.equal(compiled(rows), layer.eval()(rows))


USED = ("_linear_pointwise", "_convolution_pointwise", "_convolution_transpose_pointwise")


def without(name: str) -> Any:
    """torch's private operators as a version of torch would have them that lacks one."""
    orders = ("linear_weight", "convolution_weight", "convolution_transpose_weight")
    names = {*USED, *(f"_reorder_{weight}" for weight in orders)}
    kept = {each: getattr(torch.ops.mkldnn, each) for each in names - {name}}
    return SimpleNamespace(**kept)


def changed(name: str) -> Any:
    """As above, but one of the operators gives other numbers."""
    operators = without("")
    whole = getattr(operators, name)
    setattr(operators, name, lambda *arguments: whole(*arguments) * 1.01)
    return operators


def refusing(name: str) -> Any:
    """As above, but one of the operators takes other arguments."""
    operators = without("")

    def refuse(*_: Any) -> Tensor:
        raise RuntimeError(f"{name}() is missing value for argument 'algorithm'")

    setattr(operators, name, refuse)
    return operators


@pytest.mark.parametrize("operator", USED)
@pytest.mark.parametrize(
    ("kind", "words"),
    [(without, "lacks them"), (refusing, "algorithm"), (changed, "other numbers")],
)
def test_without_the_private_operators_layers_are_torchs_own(
    kind: Callable[[str], Any], words: str, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", kind(operator))
    frozen.why_not.cache_clear()
    try:
        network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 3))
        stock = copy.deepcopy(network)
        with pytest.warns(UserWarning, match=f"torch's own kernels .*{words}"):
            freeze(network)
        assert [type(layer) for layer in network] == [nn.Conv2d, nn.Flatten, nn.Linear]
        assert not any(weight.requires_grad for weight in network.parameters())
        rows = torch.randn(2, 4, 4, 4)
        assert torch.equal(network(rows), stock(rows))
    finally:
        frozen.why_not.cache_clear()


def test_with_this_torch_the_kernels_are_used() -> None:
    frozen.why_not.cache_clear()
    assert frozen.why_not() is None
