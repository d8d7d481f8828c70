"""Shape aliases and named random streams.

Conventions of the whole package: images are float32 in [0, 1], shape [batch, 3, height, width];
masks are bool, shape [batch, height, width]; latents are scaled as the model's U-Net sees them,
shape [batch, channels, height / f, width / f].
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Real, UInt8
from torch import Tensor

Images: TypeAlias = Float[Tensor, "batch 3 height width"]
Pixels: TypeAlias = UInt8[Tensor, "batch 3 height width"]
Masks: TypeAlias = Bool[Tensor, "batch height width"]
Latents: TypeAlias = Float[Tensor, "batch channels latent_height latent_width"]
Timesteps: TypeAlias = Int[Tensor, " batch"]
Times: TypeAlias = Real[Tensor, " batch"]
"""What a network is told: with flows and some samplers it lies between whole timesteps."""
PerExample: TypeAlias = Float[Tensor, " batch"]
Draws: TypeAlias = Sequence[torch.Generator]
"""One generator for each image, from which it alone draws."""


def stream_seed(*names: str | int) -> int:
    """A 63-bit seed that depends on the names alone; the same on every machine."""
    whole = hashlib.sha256("\x1f".join(map(str, names)).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(whole[:8], "little") >> 1


def stream(*names: str | int) -> torch.Generator:
    """A CPU generator for one named purpose, e.g. ``stream(seed, "poison", image_name)``.

    Two streams with different names are independent; nothing draws from the global state.
    """
    return torch.Generator().manual_seed(stream_seed(*names))


def randn(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal float32 [len(generators), *shape]: row i is drawn from generator i alone."""
    return _drawn(torch.randn, generators, shape)


def rand(generators: Sequence[torch.Generator], shape: Sequence[int] = ()) -> Tensor:
    """Uniform [0, 1) float32 [len(generators), *shape]: row i is drawn from generator i alone."""
    return _drawn(torch.rand, generators, shape)


def _drawn(
    draw: Callable[..., Tensor], generators: Sequence[torch.Generator], shape: Sequence[int]
) -> Tensor:
    ahead = _AHEAD.get()
    if ahead is not None:
        return ahead.next(draw, generators, tuple(shape))
    return torch.stack([draw(tuple(shape), generator=each) for each in generators])


class DrawnAhead:
    """The random numbers of a function that draws the same ones, in shape and order, at each call.

    Its first call draws them where they are needed; before a later one ``again`` draws them all, in
    the same order, so that the function only reads tensors on ``device``.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._at = device, 0
        self._places: list[tuple[Callable[[], Tensor], Tensor]] = []

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within the block ``rand`` and ``randn`` give what was drawn."""
        self._at = 0
        token = _AHEAD.set(self)
        try:
            yield
        finally:
            _AHEAD.reset(token)

    def next(
        self,
        draw: Callable[..., Tensor],
        generators: Sequence[torch.Generator],
        shape: tuple[int, ...],
    ) -> Tensor:
        """What the function reads next."""
        if self._at == len(self._places):

            def fresh() -> Tensor:
                return torch.stack([draw(shape, generator=each) for each in generators])

            self._places.append((fresh, fresh().to(self._device)))
        self._at += 1
        return self._places[self._at - 1][1]

    def again(self) -> None:
        """Draws all anew, in their order."""
        for fresh, place in self._places:
            place.copy_(fresh(), non_blocking=True)


_AHEAD: ContextVar[DrawnAhead | None] = ContextVar("ahead", default=None)
