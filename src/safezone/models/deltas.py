"""Changes of a frozen model's layers, another one for every row of a batch.

The weights stay as they are: a hook on each layer adds what the row's change contributes, so many
runs share one pass through the model (Hu et al. 2022 for the low-rank form).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change ``scale * up @ down`` of one layer's weight; ``scale`` is alpha / rank.

    ``down``: [*runs, rank, inputs]; ``up``: [*runs, outputs, rank]; no runs axis in an adapter, one
    in a batch.
    """

    down: Float[Tensor, "*runs rank inputs"]
    up: Float[Tensor, "*runs outputs rank"]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of the layer."""
        return self.up.shape[-2], self.down.shape[-1]

    def weight(self) -> Float[Tensor, "*runs outputs inputs"]:
        """The change in full."""
        return self.scale * self.up @ self.down

    def contribution(
        self, inputs: Float[Tensor, "rows tokens inputs"], owners: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows tokens outputs"]:
        """What row i's change, that of run ``owners[i]``, adds to the layer's output."""
        inner = torch.bmm(inputs, _rows(self.down, owners, inputs).transpose(1, 2))
        return torch.bmm(inner, _rows(self.up, owners, inputs).transpose(1, 2)) * self.scale


@dataclass(frozen=True, eq=False)
class Full:
    """A change of one layer's weight in full, [*runs, outputs, inputs].

    ``frozen_start``: no gradient passes the layer's output at the first token, as in Custom
    Diffusion, where the start token's keys and values are left out of the learning.
    """

    change: Float[Tensor, "*runs outputs inputs"]
    frozen_start: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of the layer."""
        return self.change.shape[-2], self.change.shape[-1]

    def weight(self) -> Float[Tensor, "*runs outputs inputs"]:
        """The change itself."""
        return self.change

    def contribution(
        self, inputs: Float[Tensor, "rows tokens inputs"], owners: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows tokens outputs"]:
        """What row i's change, that of run ``owners[i]``, adds to the layer's output."""
        return torch.bmm(inputs, _rows(self.change, owners, inputs).transpose(1, 2))


Delta: TypeAlias = LowRank | Full


def _rows(values: Tensor, owners: Tensor, like: Tensor) -> Tensor:
    """Each row's own slice of [runs, a, b]; one run's is shared instead of copied."""
    values = values.to(like)
    if len(values) == 1:
        return values.expand(len(owners), -1, -1)
    return values[owners]


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes of a batch: by the layer's name, each with a leading axis of runs.

    ``owners``: int64 [rows], which of the runs each row of the batch belongs to.
    """

    layers: Mapping[str, Delta]
    owners: Int[Tensor, " rows"]

    def __getitem__(self, rows: Tensor) -> "Changes":
        return Changes(self.layers, self.owners[rows])


class LayerSlot:
    """What the hooks of one model look at: the changes of the pass that runs just now.

    One pass at a time: threads that share a model must not run it together with changes. (A plain
    attribute, since torch.compile breaks its graph at anything that belongs to a thread.)
    """

    def __init__(self) -> None:
        self.changes: Changes | None = None

    @contextmanager
    def holding(self, changes: Changes | None) -> Iterator[None]:
        """Within the block every watched layer adds its rows' changes."""
        before = self.changes
        self.changes = changes
        try:
            yield
        finally:
            self.changes = before

    def checkpointing(self, module: Callable[..., Any], *arguments: Any) -> Any:
        """What diffusers' gradient checkpointing calls; the recomputation sees the same changes.

        It happens in the backward pass, maybe in another thread, long after the block.
        """
        changes = self.changes

        def run(*entering: Any) -> Any:
            with self.holding(changes):
                return module(*entering)

        return checkpoint(run, *arguments, use_reentrant=False)


def changeable(module: nn.Module) -> dict[str, nn.Module]:
    """The linear layers and 1 x 1 convolutions, by their path below ``module``."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1)
    }


def convolutions(part: str, module: nn.Module) -> frozenset[str]:
    """The changeable layers of a part that are convolutions, as ``part.path``."""
    return frozenset(
        f"{part}.{path}"
        for path, layer in changeable(module).items()
        if isinstance(layer, nn.Conv2d)
    )


def watch(part: str, module: nn.Module, slot: LayerSlot) -> dict[str, tuple[int, int]]:
    """Hooks the changeable layers of a part; returns (outputs, inputs) of ``part.path`` each."""
    shapes = {}
    for path, layer in changeable(module).items():
        name = f"{part}.{path}"
        layer.register_forward_hook(_hook(name, slot))
        weight: Any = layer.weight
        shapes[name] = (int(weight.shape[0]), int(weight.shape[1]))
    return shapes


def _hook(name: str, slot: LayerSlot) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def add(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        changes = slot.changes
        delta = None if changes is None else changes.layers.get(name)
        if changes is None or delta is None:
            return output
        return _added(delta, changes.owners, inputs[0], output)

    return add


def _added(delta: Delta, owners: Tensor, entering: Tensor, output: Tensor) -> Tensor:
    """The layer's output with the change; [rows, tokens, c], [rows, c] or [rows, c, h, w]."""
    if entering.ndim == 4:
        tokens = delta.contribution(entering.flatten(2).transpose(1, 2), owners)
        return output + tokens.transpose(1, 2).reshape(output.shape)
    if entering.ndim == 2:
        return output + delta.contribution(entering[:, None], owners)[:, 0]
    total = output + delta.contribution(entering, owners)
    if isinstance(delta, Full) and delta.frozen_start:
        return torch.cat([total[:, :1].detach(), total[:, 1:]], dim=1)
    return total
