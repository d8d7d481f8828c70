"""Frozen layers on a CPU, in oneDNN: faster, and a row's result does not depend on its neighbours.

torch chooses the kernel of a layer anew at each call, by the number of rows among other things, so
a row alone and the same row in a batch differ in their last bits; and it gives matrix products to
MKL, which leaves more than half of what some processors can do. Here every call of a layer goes to
the same kernel. Weights that nobody trains are brought into that kernel's own order once.

The layers stay ``nn.Linear`` and ``nn.Conv2d`` for everyone else. Where this does not apply
(another device or precision, weights that are trained, a compiler that has its own kernels) they
compute as before.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from safezone.errors import Notice

_KEPT_LIMIT = 128 * 2**20
"""Weights of one network that are kept in the kernels' order too, in bytes; twice this is the
price. In a larger network a call is so long that reordering in it does not matter."""

_PLAIN: tuple[str, list[float], str] = ("none", [], "")
"""Nothing joined to the layer: no activation, its scalars, its algorithm."""

_ONCE: tuple[list[int], int] = ([1, 1], 1)
"""Neither dilation nor groups."""

_STOCK: ContextVar[bool] = ContextVar("stock", default=False)


@contextmanager
def stock_kernels() -> Iterator[None]:
    """Within the block frozen layers compute as torch's own, whose operations torch can count."""
    token = _STOCK.set(True)
    try:
        yield
    finally:
        _STOCK.reset(token)


def freeze(module: nn.Module) -> None:
    """Turns off the gradients of all weights below ``module``, sets it to evaluation, and lets
    its linear layers and convolutions compute as told above.

    Of a network of more than 128 MB only the linear layers do, from the weights as they are: torch
    chooses oneDNN for large convolutions by itself.
    """
    module.requires_grad_(False).eval()
    if not torch.backends.mkldnn.is_available():
        return
    if reason := why_not():
        warnings.warn(
            f"frozen layers compute with torch's own kernels ({reason}): slower, and a run's last "
            "bits depend on the runs beside it",
            Notice,
            stacklevel=2,
        )
        return
    size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    kept = size <= _KEPT_LIMIT
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FrozenLinear if kept else LargeFrozenLinear
        elif type(layer) is nn.Conv2d and kept and _simple(layer):
            layer.__class__ = FrozenConv2d
        if isinstance(layer, _Keeping):
            layer._kept = _Kept()


@functools.cache
def why_not() -> str | None:
    """Why the kernels cannot be used with this torch, whose private operators they are; or None.

    A product and a convolution with a stride, forwards and backwards, have to give the stock
    layers' numbers.
    """
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(6, 4, generator=generator) for _ in range(2))
    filters = torch.randn(6, 4, 3, 3, generator=generator)
    images = torch.randn(2, 4, 9, 8, generator=generator)
    bias = torch.randn(6, generator=generator)
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1).requires_grad_(False)
    layer.weight.copy_(filters)
    pairs: list[tuple[Tensor, Tensor]] = []
    try:
        for inputs, kernel, stock in (
            (rows, _Product.ordered(weight), functional.linear(rows, weight, bias)),
            (rows, _Product(weight, weight.t()), functional.linear(rows, weight, bias)),
            (
                images,
                _Convolution(layer, (9, 8)),
                functional.conv2d(images, filters, bias, stride=2, padding=1),
            ),
        ):
            if inputs is rows:
                back = stock @ weight
            else:
                back = functional.conv_transpose2d(stock, filters, None, 2, 1, (0, 1))
            pairs += [(kernel.forwards(inputs, bias), stock), (kernel.backwards(stock), back)]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} lacks them: {str(error).splitlines()[0]}"
    if not all(torch.allclose(ours, stock, rtol=1e-4, atol=1e-4) for ours, stock in pairs):
        return f"those of torch {torch.__version__} give other numbers"
    return None


def _simple(layer: nn.Conv2d) -> bool:
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _applies(weight: Tensor, inputs: Tensor) -> bool:
    return (
        inputs.dtype is weight.dtype is torch.float32
        and inputs.is_cpu
        and weight.is_cpu
        and not weight.requires_grad
        and not torch.compiler.is_compiling()
        and not _STOCK.get()
        and not torch.is_autocast_enabled("cpu")
        and inputs.numel() > 0
    )


class _Keeping(nn.Module):
    """A layer that keeps its kernel, until its weights move or change their type."""

    _kept: "_Kept"

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._kept.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class FrozenLinear(_Keeping, nn.Linear):
    """``nn.Linear`` with frozen weights, kept in their kernel's order."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        weight = self.weight
        if not _applies(weight, input):
            return super().forward(input)
        kernel = self._kept.of(weight, (), lambda: _Product.ordered(weight.detach()))
        return _computed(input, self.bias, kernel)


class LargeFrozenLinear(nn.Linear):
    """``nn.Linear`` with frozen weights, in their usual order only."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        weight = self.weight
        if not _applies(weight, input):
            return super().forward(input)
        return _computed(input, self.bias, _Product(weight, weight.t()))


class FrozenConv2d(_Keeping, nn.Conv2d):
    """``nn.Conv2d``, undilated and without groups, with frozen weights kept in their kernel's
    order."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        weight = self.weight
        if input.ndim != 4 or not _applies(weight, input):
            return super().forward(input)
        size = tuple(input.shape[2:])
        kernel = self._kept.of(weight, size, lambda: _Convolution(self, size))
        return _computed(input, self.bias, kernel)


class _Kernel(Protocol):
    """What a layer computes from its frozen weights."""

    def forwards(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""

    def backwards(self, gradient: Tensor) -> Tensor:
        """The gradient at the input, of the one at the output."""


class _Kept:
    """A layer's kernel, for as long as its weights are those that it was made from."""

    def __init__(self) -> None:
        self._made_from: tuple[int, ...] = ()
        self._kernel: _Kernel | None = None

    def clear(self) -> None:
        """Forgets it."""
        self._kernel = None

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return _Kept()  # a kernel's own order of the weights cannot be copied

    def of(self, weight: Tensor, size: tuple[int, ...], make: Callable[[], _Kernel]) -> _Kernel:
        """The kernel for inputs of this size, made anew where weights or size have changed."""
        made_from = (weight.data_ptr(), weight._version, *size)
        if self._kernel is None or self._made_from != made_from:
            self._kernel, self._made_from = make(), made_from
        return self._kernel


class _Product:
    """The kernel of a linear layer; ``forth`` and ``back``: its weight, and that transposed."""

    def __init__(self, forth: Tensor, back: Tensor) -> None:
        self._forth, self._back = forth, back

    @classmethod
    def ordered(cls, weight: Tensor) -> "_Product":
        """With both in oneDNN's order."""
        order = torch.ops.mkldnn._reorder_linear_weight
        return cls(order(weight), order(weight.t().contiguous()))

    def forwards(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """As ``_Kernel``."""
        return _product(inputs, self._forth, bias)

    def backwards(self, gradient: Tensor) -> Tensor:
        """As ``_Kernel``."""
        return _product(gradient, self._back, None)


class _Convolution:
    """The kernel of a convolution for inputs of ``size``, rows and columns."""

    def __init__(self, layer: nn.Conv2d, size: tuple[int, ...]) -> None:
        weight = layer.weight.detach().contiguous(memory_format=torch.channels_last)
        outputs, inputs = weight.shape[:2]
        self._padding, self._stride = [int(each) for each in layer.padding], list(layer.stride)
        axes = list(zip(size, layer.kernel_size, self._padding, self._stride, strict=True))
        reached = [(n + 2 * p - k) // s for n, k, p, s in axes]
        # What the last position of the kernel leaves over at the end of the input.
        self._rest = [(n + 2 * p - k) % s for n, k, p, s in axes]
        self._forth: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self._padding, self._stride, *_ONCE, [1, inputs, *size]
        )
        self._back: Tensor = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight,
            self._padding,
            self._rest,
            self._stride,
            *_ONCE,
            [1, outputs, *(steps + 1 for steps in reached)],
        )

    def forwards(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """As ``_Kernel``."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs, self._forth, bias, self._padding, self._stride, *_ONCE, *_PLAIN
        )
        return result

    def backwards(self, gradient: Tensor) -> Tensor:
        """As ``_Kernel``."""
        result: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            gradient, self._back, None, self._padding, self._rest, self._stride, *_ONCE, *_PLAIN
        )
        return result


class _Computation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bias: Tensor | None, kernel: _Kernel) -> Tensor:
        ctx.kernel = kernel
        return kernel.forwards(inputs, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise NotImplementedError("frozen layers have no second derivative; see stock_kernels")
        return ctx.kernel.backwards(gradient), None, None


def _computed(inputs: Tensor, bias: Tensor | None, kernel: _Kernel) -> Tensor:
    if not (inputs.requires_grad and torch.is_grad_enabled()):
        return kernel.forwards(inputs, bias)
    result: Tensor = _Computation.apply(inputs, bias, kernel)  # type: ignore[no-untyped-call]
    return result


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, *_PLAIN)
    return result
