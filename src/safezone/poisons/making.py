"""Poisoning images and concepts, as many in a pass as told, and how visible a poison is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from tqdm import tqdm

from safezone.arrays import Images, Masks, PerExample, Pixels
from safezone.concepts import Concept
from safezone.concepts.masks import dilate
from safezone.errors import UserError
from safezone.image_metrics import psnr, ssim
from safezone.images import to_float, to_uint8
from safezone.models.base import Model
from safezone.models.fingerprint import fingerprint
from safezone.poisons.guide import bound
from safezone.poisons.passes import Checkpoints, Pass, Piece, streams
from safezone.poisons.row import Poison


def poison_fingerprints(poison: Poison, models: Model | Sequence[Model]) -> list[str]:
    """Of all networks that the poison is made with, for its key: the models and its objective's.

    Raises UserError when one of its objective's networks cannot be opened.
    """
    return [
        fingerprint(network) if isinstance(network, nn.Module) else network.fingerprint()
        for model in _sequence(models)
        for network in (model, *bound(poison.objective, model).networks)
    ]


def _sequence(models: Model | Sequence[Model]) -> Sequence[Model]:
    return models if isinstance(models, Sequence) else (models,)


def _dilated(model: Model, poison: Poison, masks: Masks | None) -> Tensor | None:
    """Where the poison may change pixels and its loss counts, float [batch, 1, h, w] or None."""
    if poison.mask is None:
        return None
    if masks is None:
        raise UserError(
            f"Poison {poison.name!r} stays inside the object's mask and there are no masks; make "
            "them with `safezone mask`, or choose a poison without @lm and @szt."
        )
    grown = dilate(masks, poison.mask.radius(masks.shape[-1], model.factor))
    poison.mask.cells(masks, model.factor, "the concept")  # refuses one that is empty there
    return grown[:, None].to(torch.float32)


@dataclass(frozen=True, eq=False)
class Unpoisoned:
    """Images to poison: uint8 [batch, 3, height, width], a name and a random stream for each.

    ``masks``: bool [batch, height, width], True on the object, for poisons that stay inside it.
    ``checkpoints``: where to go on after a killed process has stopped, to the same bytes.
    """

    images: Pixels
    names: Sequence[str]
    masks: Masks | None = None
    checkpoints: Checkpoints | None = None


def _pieces(
    model: Model, images: Unpoisoned, poison: Poison, seed: int, batch_size: int
) -> list[Piece]:
    if not len(images.images) == len(images.names) == len(set(images.names)) > 0:
        count = len(images.images)
        raise ValueError(f"{count} images need as many distinct names, got {images.names}")
    where, pieces = _dilated(model, poison, images.masks), []
    for first in range(0, len(images.images), batch_size):
        rows = slice(first, first + batch_size)
        names, masks = images.names[rows], None if where is None else where[rows]
        generators = streams(poison, seed, names)
        pieces.append(Piece(names, images.images[rows], masks, generators, images.checkpoints))
    return pieces


def _passes(pieces: Sequence[Piece], batch_size: int) -> Iterator[list[Piece]]:
    """Those that have come equally far, as many as a pass holds."""
    together: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.done):
        size = sum(len(each.names) for each in (*together, piece))
        if together and (size > batch_size or piece.done != together[0].done):
            yield together
            together = []
        together.append(piece)
    if together:
        yield together


def poison_many(
    models: Sequence[Model],
    sets: Sequence[Unpoisoned],
    poison: Poison,
    seed: int,
    *,
    batch_size: int = 16,
    captured: bool = False,
    progress: bool = True,
) -> list[Pixels]:
    """The poisoned images of several sets, such as concepts, ``batch_size`` images in a pass.

    ``captured``: each gradient as one CUDA graph (GPU), the same to rounding; not of a poison with
    a transform, which may decide by the numbers that it has drawn. A set's result depends on no
    other: see ``poison_images``, which has one set and tells what is raised.
    """
    if batch_size < 1:
        raise UserError(f"The poison's batch size is {batch_size}; give at least 1.")
    cut = [_pieces(models[0], each, poison, seed, batch_size) for each in sets]
    objectives = [bound(poison.objective, each).value for each in models]
    passes = list(_passes([piece for pieces in cut for piece in pieces], batch_size))
    made: dict[Piece, Pixels] = {}
    captured = captured and poison.transform is None
    total = poison.steps * len(passes)
    with tqdm(total=total, desc=poison.name, unit="step", disable=not progress) as bar:
        for together in passes:
            images = Pass(models, objectives, poison, seed, together, captured).run(bar.update)
            made |= zip(together, images, strict=True)
    poisoned = [torch.cat([made[piece] for piece in pieces]) for pieces in cut]
    if not all(map(poison.budget.contains, [each.images for each in sets], poisoned)):
        raise AssertionError(f"poison {poison.name!r} left its budget: a defect of its projection")
    return poisoned


def poison_images(
    model: Model | Sequence[Model],
    images: Images,
    poison: Poison,
    seed: int,
    image_names: Sequence[str],
    *,
    masks: Masks | None = None,
    batch_size: int = 16,
    progress: bool = True,
    checkpoints: Checkpoints | None = None,
) -> Pixels:
    """The poisoned images, rounded to 8 bits and inside the budget around the clean 8-bit images.

    ``model``: the one that the poison is made on, or several, whose objectives are averaged.
    ``images``: float [batch, 3, height, width] in [0, 1], rounded to 8 bits first. ``masks``: bool
    [batch, height, width], True on the object, for poisons that stay inside it. Image i draws
    from ``stream(seed, "poison", poison.name, image_names[i])`` alone, so that its poison depends
    neither on its neighbours nor on ``batch_size`` (images that share one pass). With
    ``checkpoints`` it goes on where a killed process has stopped, to the same bytes.

    Raises ValueError unless there is one distinct name per image, UserError when the poison needs
    masks and there are none, FloatingPointError when a gradient breaks.
    """
    one = Unpoisoned(to_uint8(images).cpu(), image_names, masks, checkpoints)
    return poison_many(
        _sequence(model), [one], poison, seed, batch_size=batch_size, progress=progress
    )[0]


def poison_concept(
    model: Model | Sequence[Model],
    concept: Concept,
    poison: Poison,
    seed: int,
    *,
    batch_size: int = 16,
    progress: bool = True,
    checkpoints: Checkpoints | None = None,
) -> Concept:
    """The concept with poisoned images; names, masks and words stay (see ``poison_images``)."""
    one = Unpoisoned(concept.images, concept.image_names, concept.masks, checkpoints)
    return concept.with_images(
        poison_many(
            _sequence(model), [one], poison, seed, batch_size=batch_size, progress=progress
        )[0]
    )


def imperceptibility(
    clean: UInt8[Tensor, "batch 3 height width"], poisoned: UInt8[Tensor, "batch 3 height width"]
) -> dict[str, PerExample]:
    """How visible a poison is, per image: a (batch,) of values under each name.

    "psnr" in dB, infinite for equal images; "ssim" in [-1, 1]; "linf": the largest change, pixels
    in [0, 1]; "share_at_bound": the share of values changed by just that much (0 for equal
    images), which is the bound of an l-infinity budget once the poison uses it. Raises ValueError
    for unequal shapes and sides below 11 pixels.
    """
    before, after = to_float(clean), to_float(poisoned)
    levels = (poisoned.to(torch.int16) - clean.to(torch.int16)).flatten(1).abs()
    largest = levels.amax(dim=1)
    at_bound = (levels == largest[:, None]) & (levels > 0)
    return {
        "psnr": psnr(before, after),
        "ssim": ssim(before, after),
        "linf": largest / 255,
        "share_at_bound": at_bound.to(torch.float32).mean(dim=1),
    }
