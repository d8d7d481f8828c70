"""Generated images of one run to numbers."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from safezone.scores.encoders import ImageEncoder, TextImageEncoder
from safezone.scores.metrics import (
    clip_score,
    cosine_similarity,
    frechet_distance,
    kernel_distance,
    similarity,
)

METRICS = ("instance_similarity", "clip_score", "clip_cosine", "frechet", "kernel")
"""What ``score_images`` measures, in its order."""


class Score(NamedTuple):
    """One number with how many generated and reference images it rests on (0: none used)."""

    metric: str
    value: float
    n_generated: int
    n_reference: int


def with_class_word(prompt: str, placeholder: str, class_word: str) -> str:
    """The prompt a stock CLIP can read: the class noun in the placeholder's place, not doubled."""
    once = prompt.replace(f"{placeholder} {class_word}", class_word)
    return once.replace(placeholder, class_word)


def score_images(
    generated: UInt8[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    clean: UInt8[Tensor, "m 3 s s"],
    *,
    class_word: str,
    placeholder: str,
    instance_encoder: ImageEncoder,
    text_image_encoder: TextImageEncoder | None,
) -> list[Score]:
    """Scores generated images against the clean references and their prompts.

    ``instance_similarity``: mean cosine of all (generated, clean) pairs of features, in [-1, 1].
    ``clip_score`` and ``clip_cosine``: means over images of 2.5 max(cos, 0) and of cos between
    an image and its prompt with the class noun in place of the placeholder; left out without a
    text-image encoder. ``frechet`` and ``kernel``: distances of instance features; left out with
    fewer than two images on a side. ``prompts[i]`` belongs to ``generated[i]``. Raises
    ValueError for unequal counts or no images.
    """
    if len(prompts) != len(generated) or not len(generated) or not len(clean):
        raise ValueError(
            f"{len(generated)} generated images, {len(prompts)} prompts, {len(clean)} references"
        )
    n, m = len(generated), len(clean)
    ours, references = instance_encoder.features(generated), instance_encoder.features(clean)
    scores = [Score("instance_similarity", float(similarity(ours, references).mean()), n, m)]
    if text_image_encoder is not None:
        texts = [with_class_word(prompt, placeholder, class_word) for prompt in prompts]
        cosine = cosine_similarity(
            text_image_encoder.image_features(generated), text_image_encoder.text_features(texts)
        ).diagonal()
        scores.append(Score("clip_score", float(clip_score(cosine).mean()), n, 0))
        scores.append(Score("clip_cosine", float(cosine.mean()), n, 0))
    if min(n, m) > 1:
        scores.append(Score("frechet", float(frechet_distance(ours, references)), n, m))
        scores.append(Score("kernel", float(kernel_distance(ours, references)), n, m))
    return scores
