"""Functions of static shapes: on a GPU recorded once as a CUDA graph and then replayed.

The host has one call to make then instead of thousands. Elsewhere the function is called as it is,
so that all but the recording is the same everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safezone.errors import UserError


class Recorded:
    """A function that reads and writes tensors in place; ``changed``: what its calls that warm up
    shall not change. ``warm_up``: how many of them there are."""

    def __init__(
        self,
        function: Callable[[], object],
        device: torch.device,
        changed: Sequence[Tensor] = (),
        warm_up: int = 3,
    ) -> None:
        self._function, self._device = function, device
        self._changed, self._warm_up = changed, warm_up
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Calls it, or replays it; UserError for a function that a graph cannot hold."""
        if self._device.type != "cuda":
            self._function()
            return
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        before = [tensor.detach().clone() for tensor in self._changed]
        stream, now = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            for _ in range(self._warm_up):
                self._function()
        now.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UserError(
                f"this cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); "
                "leave --captured out"
            ) from error
        with torch.no_grad():
            for tensor, value in zip(self._changed, before, strict=True):
                tensor.copy_(value)
        return graph


class Captured:
    """A function of tensors to a tensor, called with the same shapes again and again; the first
    call is eager."""

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function = function
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None
        self._recorded = Recorded(self._evaluate, device, warm_up=1)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the function gives, without a graph of gradients."""
        if self._output is None:
            self._inputs = [each.detach().clone() for each in inputs]
            self._output = self._function(*self._inputs).detach().clone()
            return self._output.clone()
        with torch.no_grad():
            for place, value in zip(self._inputs, inputs, strict=True):
                place.copy_(value)
        self._recorded()
        return self._output.clone()

    def _evaluate(self) -> Any:
        assert self._output is not None
        result = self._function(*self._inputs)
        with torch.no_grad():
            self._output.copy_(result)
