"""The table of what scores images; another kind of encoder is a file and a row.

docs/adding-an-encoder.md shows one.
"""

from collections.abc import Mapping
from types import MappingProxyType

from safezone.scores.slot import Metric, Slot, later

_ROWS = (
    Slot(
        "instance",
        "Tells objects apart: mini-instance, dinov2, or a folder.",
        later("safezone.scores.loading", "load_encoder"),
        later("safezone.scores.instance", "measure_instance"),
        (
            Metric("instance_similarity", "Instance similarity", True),
            Metric("frechet", "Fréchet distance", False),
            Metric("kernel", "Kernel distance", False, 4),
        ),
        built_in="mini-instance",
        default="dinov2",
        optional=False,
        cached=True,
    ),
    Slot(
        "text_image",
        "Compares images with their prompts: mini-clip, clip, a folder, or none.",
        later("safezone.scores.loading", "load_text_image_encoder"),
        later("safezone.scores.text_image", "measure_prompts"),
        (
            Metric("clip_score", "CLIP score", True),
            Metric("clip_cosine", "CLIP cosine", True, 3),
        ),
        built_in="mini-clip",
        default="clip",
    ),
    Slot(
        "token",
        "Compares images with prompts that keep the learned token: the CLIP whose text encoder is "
        "the model's own (clip for sd15), or none. It needs the adapter that drew the images.",
        later("safezone.scores.loading", "load_learned_token_encoder"),
        later("safezone.scores.text_image", "measure_learned_token"),
        (
            Metric("clip_score_token", "CLIP score, learned token kept", True),
            Metric("clip_cosine_token", "CLIP cosine, learned token kept", True, 3),
        ),
    ),
    Slot(
        "inception",
        "Measures FID: a safetensors file with Inception's weights, or none.",
        later("safezone.scores.inception", "load_inception"),
        later("safezone.scores.inception", "measure_inception"),
        (
            Metric("fid", "FID", False, 1),
            Metric("kid", "Kernel distance of Inception's features", False, 4),
        ),
        cached=True,
        keep=later("safezone.scores.inception", "inception_features"),
    ),
)

SLOTS: Mapping[str, Slot] = MappingProxyType({row.name: row for row in _ROWS})

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in sorted(
            (metric for row in _ROWS for metric in row.metrics),
            key=lambda metric: metric.higher_is_better is not True,
        )
    }
)
"""All that is measured, similarities first: the order of rows and of tables."""


def metric_of(name: str) -> Metric:
    """The metric's display; an unknown one shows its name and has no good direction."""
    return METRICS.get(name, Metric(name, name, None, 3))
