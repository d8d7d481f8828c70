"""What score_images measures, on encoders whose answers are known."""

from collections.abc import Sequence

import pytest
import torch

from safezone.scores import METRICS, SLOTS, Pictures, score_images
from safezone.scores.text_image import with_class_word


class MeanColour:
    """Mean colour as the feature; a text is the colour that it names."""

    name = "mean-colour"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3)) / 255

    image_features = features

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        self.texts += texts
        return torch.tensor(
            [[float(word in text) for word in ("red", "green", "blue")] for text in texts]
        )

    def fingerprint(self) -> str:
        return self.name


def plain(*colours: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.uint8)[..., None, None].expand(-1, -1, 4, 4)


RED, GREEN = (200, 0, 0), (0, 200, 0)
BOTH = ("instance_similarity", "clip_score", "clip_cosine", "frechet", "kernel")


def scores(generated: torch.Tensor, prompts: list[str], clean: torch.Tensor) -> dict[str, float]:
    encoder = MeanColour()
    result = score_images(
        Pictures(generated, prompts, clean, "vase", "<v>"),
        {"instance": encoder, "text_image": encoder},
    )
    assert not any("<v>" in text for text in encoder.texts)
    return {score.metric: score.value for score in result}


def test_all_metrics_with_their_counts() -> None:
    encoder = MeanColour()
    result = score_images(
        Pictures(plain(RED, RED, GREEN), ["a red <v>"] * 3, plain(RED, RED), "vase", "<v>"),
        {"text_image": encoder, "instance": encoder},
    )
    assert [score.metric for score in result] == list(BOTH)
    assert {score.n_generated for score in result} == {3}
    assert [score.n_reference for score in result] == [2, 0, 0, 2, 2]


def test_values() -> None:
    result = scores(plain(RED, GREEN), ["a red <v>", "a red <v>"], plain(RED, RED, RED))
    assert result["instance_similarity"] == pytest.approx(0.5)
    assert result["clip_cosine"] == pytest.approx(0.5)
    assert result["clip_score"] == pytest.approx(1.25)


def test_each_image_is_compared_with_its_own_prompt() -> None:
    assert scores(plain(RED, GREEN), ["red <v>", "green <v>"], plain(RED))["clip_cosine"] == 1.0


def test_distances_need_two_images_on_both_sides() -> None:
    assert set(scores(plain(RED, RED), ["<v>"] * 2, plain(RED))) == set(BOTH[:3])


def test_without_prompts_nothing_is_said_of_them() -> None:
    assert set(scores(plain(RED, RED), [], plain(RED))) == {"instance_similarity"}


def test_unequal_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 generated images, 1 prompts"):
        scores(plain(RED, RED), ["<v>"], plain(RED))


def test_every_metric_of_every_slot_is_shown_similarities_first() -> None:
    assert [name for name in METRICS if name in BOTH] == list(BOTH)
    better = [metric.higher_is_better is True for metric in METRICS.values()]
    assert better == sorted(better, reverse=True)
    assert set(METRICS) == {metric.name for slot in SLOTS.values() for metric in slot.metrics}
    assert all(metric.name == name and metric.label for name, metric in METRICS.items())


@pytest.mark.parametrize(
    ("prompt", "placeholder", "text"),
    [
        ("a photo of <v>", "<v>", "a photo of vase"),
        ("a photo of a <v> vase on grass", "<v>", "a photo of a vase on grass"),
        ("a photo of a vase", "<v>", "a photo of a vase"),
        ("art at a party", "art", "vase at a party"),
        ("a <v> vaselike thing", "<v>", "a vase vaselike thing"),
        ("a photo of a vase", "", "a photo of a vase"),
    ],
)
def test_the_class_word_stands_in_for_the_placeholder(
    prompt: str, placeholder: str, text: str
) -> None:
    assert with_class_word(prompt, placeholder, "vase") == text
