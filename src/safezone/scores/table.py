"""The table of what scores images; another kind of encoder is a file and a row.

docs/adding-an-encoder.md shows one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

    from safezone.scores.encoders import Pictures, Score

NONE: Final = "none"
"""The name that leaves a slot empty."""


def later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is imported when the function is first called.

    The table is read for every ``--help``; torch and what needs it takes seconds to import.
    """

    def call(*values: Any) -> Any:
        return getattr(import_module(module), name)(*values)

    return call


@dataclass(frozen=True)
class Metric:
    """How a number is shown: its label, which direction is good (None: neither), decimals."""

    name: str
    label: str
    higher_is_better: bool | None
    decimals: int = 2


@dataclass(frozen=True)
class Slot:
    """A kind of encoder, of which a scoring has one or none.

    ``name``: its setting is ``<name>_encoder`` and its option ``--<name>-encoder`` (with ``-`` for
    ``_``). ``help``: what the option's help says. ``load``: a name or folder and a device to an
    encoder; UserError when it cannot be opened. ``measure``: the encoder and the pictures of one
    run to scores, each of a metric in ``metrics``, without those that the pictures do not allow.
    ``built_in`` and ``default``: the encoder's name for the built-in models and for all others.
    ``optional``: whether ``none`` leaves it out. ``cached``: whether the features of images that
    come again, such as the clean ones, are remembered. ``keep``: what is written beside the rows,
    as ``<name>.safetensors``, for measurements over many runs.
    """

    name: str
    help: str
    load: "Callable[[str, torch.device | str], Any]"
    measure: "Callable[[Any, Pictures], Iterable[Score]]"
    metrics: tuple[Metric, ...]
    built_in: str = NONE
    default: str = NONE
    optional: bool = True
    cached: bool = False
    keep: "Callable[[Any, Pictures], Mapping[str, torch.Tensor]] | None" = None

    @property
    def setting(self) -> str:
        """The name of the setting that says which encoder is taken."""
        return f"{self.name}_encoder"


_ROWS = (
    Slot(
        "instance",
        "Tells objects apart: mini-instance, dinov2, or a folder.",
        later("safezone.scores.loading", "load_encoder"),
        later("safezone.scores.encoders", "measure_instance"),
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


@dataclass(frozen=True, eq=False)
class Encoders:
    """What scores images: an open encoder by slot; ``key`` is the hash of their weights."""

    by_slot: Mapping[str, Any]
    key: str

    def __getitem__(self, slot: str) -> Any:
        """The encoder of a slot; ValueError when none was opened."""
        if slot not in self.by_slot:
            raise ValueError(f"no {slot} encoder was opened")
        return self.by_slot[slot]

    def kept(self, pictures: "Pictures") -> "dict[str, Mapping[str, torch.Tensor]]":
        """What the encoders keep of a run for measurements over many, by slot."""
        keepers = {name: SLOTS[name].keep for name in self.by_slot}
        return {
            name: keep(self.by_slot[name], pictures)
            for name, keep in keepers.items()
            if keep is not None
        }

    def __contains__(self, slot: object) -> bool:
        return slot in self.by_slot


def score_images(pictures: "Pictures", encoders: Mapping[str, Any]) -> "list[Score]":
    """What the encoders measure of one run's pictures, in the order of ``METRICS``.

    ``encoders``: an open encoder by the name of its slot, as ``{"instance": load_encoder(...)}``;
    slots without one are left out, and so are metrics that the pictures do not allow.
    """
    scores = [
        score
        for name, encoder in encoders.items()
        for score in SLOTS[name].measure(encoder, pictures)
    ]
    return sorted(scores, key=lambda score: list(METRICS).index(score.metric))
