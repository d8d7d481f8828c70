"""What the runs train on: posteriors and loss weights of every image and its mirror image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from safezone.arrays import Latents
from safezone.errors import UserError
from safezone.files import digest
from safezone.images import to_float
from safezone.models.base import Model, Posterior
from safezone.personalize.personalization import PreparedRun


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The posteriors of all runs' images, each distinct image encoded once.

    ``posteriors``: of [rows] images. ``weights``, ``latent_weights``: float32 [weight rows, 1, h,
    w], what the error and the noisy latents are multiplied with, or None when no run masks them.
    ``target_weights``: the same of where the target is the image's own.
    ``images``: the distinct images as the encoder saw them. ``rows`` and ``weight_rows``: int64
    [runs, most images, 2] on the CPU, the last axis 1 for the mirror image. ``counts``: int64
    [runs], the number of images.
    """

    posteriors: Posterior
    images: UInt8[Tensor, "rows 3 s s"]
    weights: Float[Tensor, "weight_rows 1 h w"] | None
    latent_weights: Float[Tensor, "weight_rows 1 h w"] | None
    target_weights: Float[Tensor, "weight_rows 1 h w"] | None
    rows: Int[Tensor, "runs images 2"]
    weight_rows: Int[Tensor, "runs images 2"]
    counts: Int[Tensor, " runs"]

    @property
    def shape(self) -> torch.Size:
        """[channels, h, w] of one latent."""
        return self.posteriors.mean.shape[1:]

    def latents(self, rows: Int[Tensor, " batch"], noise: Latents) -> Latents:
        """One sample of each row's posterior, from given standard normal noise."""
        rows = rows.to(noise.device)
        return Posterior(self.posteriors.mean[rows], self.posteriors.std[rows]).sample(noise)


def _weights(run: PreparedRun, weights: Tensor | None) -> Tensor | None:
    """The loss weights of one run's images, so scaled that ``masked_loss`` need not normalise."""
    if weights is None or not run.loss_mask.normalise:
        return weights
    return weights / weights.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


def _join(
    weights: Sequence[Tensor | None], counts: Sequence[int], device: torch.device
) -> Tensor | None:
    """All runs' weights below each other, ones where a run has none; None if no run has any."""
    masked = next((each for each in weights if each is not None), None)
    if masked is None:
        return None
    parts = [
        torch.ones(count, *masked.shape[1:]) if each is None else each.float().cpu()
        for each, count in zip(weights, counts, strict=True)
    ]
    return torch.cat(parts).to(device)


_PIXELS_PER_PASS = 2**20
"""Through the encoder: 4 images of 512 pixels, whose activations take less than training does."""


def _encode(model: Model, images: UInt8[Tensor, "n 3 s s"], max_batch: int) -> Posterior:
    most = max(1, min(max_batch, _PIXELS_PER_PASS // images.shape[-1] ** 2))
    with torch.no_grad():
        parts = [model.encode(to_float(chunk).to(model.device)) for chunk in images.split(most)]
    return Posterior(
        torch.cat([part.mean.float() for part in parts]),
        torch.cat([part.std.float() for part in parts]),
    )


def check_images(model: Model, runs: Sequence[PreparedRun]) -> None:
    """Raises UserError unless all images are squares of one size that the model can encode."""
    first = runs[0].concept
    size = first.images.shape[-1]
    if size % model.factor:
        raise UserError(
            f"The images of {first.name} are {size} pixels wide, which is no multiple of "
            f"{model.factor}; load them at the model's size, {model.image_size}."
        )
    for run in runs:
        if not len(run.concept.images):
            raise UserError(f"{run.concept.name} has no images; put some into its folder.")
        if run.concept.images.shape[-2:] != (size, size):
            raise UserError(
                f"The images of {run.concept.name} and {first.name} differ in size; load all "
                f"concepts of one training at one size."
            )


def training_data(
    model: Model, runs: Sequence[PreparedRun], *, flip: bool, max_batch: int = 64
) -> TrainingData:
    """Mirrors and encodes the images of all runs.

    An image is mirrored before the encoder sees it, its mask with it. Images with equal bytes share
    one posterior, so runs that differ only in timesteps, loss mask or seed cost nothing more.
    Without ``flip`` the mirror image's row is the image's own.

    Raises UserError for images of unequal or unfit sizes, and for a defense that needs masks
    which its concept does not have.
    """
    check_images(model, runs)
    counts = [len(run.concept.images) for run in runs]
    rows = torch.zeros(len(runs), max(counts), 2, dtype=torch.int64)
    weight_rows = torch.zeros_like(rows)
    row_of: dict[str, int] = {}
    distinct: list[Tensor] = []
    weights: list[tuple[Tensor | None, ...]] = []  # of the loss, of latents, of targets
    weight_counts: list[int] = []
    for r, run in enumerate(runs):
        images, masks = run.concept.images.cpu(), run.concept.masks
        for side in range(2):
            if side and flip:
                images, masks = images.flip(-1), None if masks is None else masks.flip(-1)
            masked = run.loss_mask(images, masks, model.factor, concept=run.concept.name)
            for i, image in enumerate(masked.images):
                key = digest(image)
                if key not in row_of:
                    row_of[key] = len(distinct)
                    distinct.append(image)
                rows[r, i, side] = row_of[key]
                weight_rows[r, i, side] = sum(weight_counts) + i
            of_loss = _weights(run, masked.weights)
            weights.append((of_loss, masked.latent_weights, masked.target_weights))
            weight_counts.append(len(images))
    of_losses, of_latents, of_targets = (
        _join(each, weight_counts, model.device) for each in zip(*weights, strict=True)
    )
    return TrainingData(
        _encode(model, torch.stack(distinct), max_batch),
        torch.stack(distinct),
        of_losses,
        of_latents,
        of_targets,
        rows,
        weight_rows,
        torch.tensor(counts),
    )


@dataclass(frozen=True, eq=False)
class PriorData:
    """The posteriors of all runs' images of the class, each distinct set encoded once.

    ``first``, ``counts``: int64 [runs], where a run's images begin among the rows, and how many.
    """

    posteriors: Posterior
    first: Int[Tensor, " runs"]
    counts: Int[Tensor, " runs"]


def prior_data(model: Model, runs: Sequence[PreparedRun], *, max_batch: int = 64) -> PriorData:
    """Encodes the images of the class; UserError for a run without any or of another size."""
    place: dict[str, int] = {}
    distinct: list[Tensor] = []
    first = []
    for run in runs:
        if run.prior is None or not len(run.prior):
            raise UserError(
                f"{run.concept.name} has no images of its class, which prior_weight needs; give "
                "the run some or set prior_weight to 0."
            )
        if run.prior.shape[1:] != run.concept.images.shape[1:]:
            raise UserError(
                f"The images of the class for {run.concept.name} differ from its own in size; "
                "make them at its size."
            )
        key = digest(run.prior)
        if key not in place:
            place[key] = sum(map(len, distinct))
            distinct.append(run.prior)
        first.append(place[key])
    counts = [0 if run.prior is None else len(run.prior) for run in runs]
    posteriors = _encode(model, torch.cat(distinct), max_batch)
    return PriorData(posteriors, torch.tensor(first), torch.tensor(counts))
