"""Captions: files beside the images, kept by every stage, each shown with its own image."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safezone.arrays import stream
from safezone.concepts import Concept, load_concept, save_concept
from safezone.concepts.folder import check_caption, read_captions
from safezone.errors import UserError
from safezone.lab.training import Training
from safezone.models import Model, load_model
from safezone.personalize import LoRA, TextualInversion, TrainingRun, train
from safezone.personalize.draws import draw, pick
from safezone.personalize.samples import Injection

CAPTIONS = ("a photo of {} on grass", "{} in the snow", "a drawing of {}")


@pytest.fixture
def captioned() -> Concept:
    pixels = torch.randint(0, 256, (3, 3, 64, 64), generator=stream("captions"))
    return Concept(
        name="duck",
        class_word="dog",
        images=pixels.to(torch.uint8),
        image_names=("0", "1", "2"),
        captions=CAPTIONS,
    )


def test_captions_are_written_and_read_beside_their_images(
    captioned: Concept, tmp_path: Path
) -> None:
    save_concept(captioned, tmp_path / "duck")
    assert (tmp_path / "duck" / "1.txt").read_text(encoding="utf-8") == "{} in the snow\n"
    read = load_concept(tmp_path / "duck", 64)
    assert read.captions == CAPTIONS
    assert read.content_key() == captioned.content_key()
    assert read.content_key() != replace(read, captions=None).content_key()
    assert read.content_key() != replace(read, captions=CAPTIONS[::-1]).content_key()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing while"),
        (b"a photo of a dog", "must have {} once"),
        (b"{} and {}", "must have {} once"),
        (b"a {} \n\n of two lines", "one line"),
        (b"a {} " + b"x" * 5000, "at most 2000"),
        (b"\xff\xfe{}", "UTF-8"),
    ],
)
def test_a_wrong_caption_is_told_by_its_file(
    captioned: Concept, tmp_path: Path, content: bytes | None, words: str
) -> None:
    save_concept(captioned, tmp_path / "duck")
    file = tmp_path / "duck" / "2.txt"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"2.txt.*{words}"):
        load_concept(tmp_path / "duck", 64, require_captions=True)
    with pytest.warns(UserWarning, match=f"no captions are read from .*2.txt.*{words}"):
        assert load_concept(tmp_path / "duck", 64).captions is None


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa {} on grass\r\n",
        "a {} on\u00a0grass\u200b\n".encode(),
        "\u200ea {} on\u3000grass".encode(),
        b"a {} on\tgrass",
    ],
)
def test_invisible_characters_are_no_part_of_a_caption(
    captioned: Concept, tmp_path: Path, content: bytes
) -> None:
    save_concept(captioned, tmp_path / "duck")
    (tmp_path / "duck" / "2.txt").unlink()
    (tmp_path / "duck" / "2.TXT").write_bytes(content)
    captions = load_concept(tmp_path / "duck", 64, require_captions=True).captions
    assert captions == (*CAPTIONS[:2], "a {} on grass")


def test_required_captions_are_asked_for(captioned: Concept, tmp_path: Path) -> None:
    save_concept(replace(captioned, captions=None), tmp_path / "duck")
    with pytest.raises(UserError, match=r"duck has no captions; write NAME\.txt beside each"):
        load_concept(tmp_path / "duck", 64, require_captions=True)


def test_a_text_file_that_is_no_caption_is_still_refused(
    captioned: Concept, tmp_path: Path
) -> None:
    save_concept(captioned, tmp_path / "duck")
    (tmp_path / "duck" / "notes.txt").write_text("what I thought")
    with pytest.raises(UserError, match=r"notes\.txt is not an image"):
        load_concept(tmp_path / "duck", 64)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=60))
def test_what_is_well_comes_back_from_its_file(tmp_path: Path, text: str) -> None:
    caption = text.strip()
    image = tmp_path / "1.png"
    if check_caption(caption):
        with pytest.raises(ValueError, match="caption"):
            Concept(
                name="duck",
                class_word="dog",
                images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
                image_names=("1",),
                captions=(caption,),
            )
    else:
        image.with_suffix(".txt").write_text(caption, encoding="utf-8")
        assert read_captions([image]) == (caption,)


def test_every_image_is_shown_under_its_own_caption(
    captioned: Concept, tiny_model: Model, run_of: Callable[..., TrainingRun]
) -> None:
    two = replace(
        captioned,
        name="vase",
        images=captioned.images[:2],
        image_names=("0", "1"),
        captions=CAPTIONS[:2],
    )
    runs = [run_of(each).prepare(tiny_model) for each in (captioned, two)]
    seen: list[list[str]] = []
    tokenize = tiny_model.tokenize

    class Listening:
        def __getattr__(self, name: str) -> object:
            return getattr(tiny_model, name)

        def tokenize(self, prompts: list[str], *rest: object) -> object:
            seen.append(list(prompts))
            return tokenize(prompts, *rest)  # type: ignore[arg-type]

    method = TextualInversion(steps=3, batch_size=2, templates="captions", flip=False)
    listening: Model = Listening()  # type: ignore[assignment]
    injection = Injection(listening, method, runs)
    assert seen[0] == [c.replace("{}", captioned.placeholder) for c in CAPTIONS]
    assert seen[1][:2] == [c.replace("{}", two.placeholder) for c in CAPTIONS[:2]]
    assert injection.templates == 3

    from safezone.personalize.posteriors import training_data
    from safezone.personalize.samples import Sampler

    data = training_data(tiny_model, runs, flip=False)
    sampler = Sampler(tiny_model, runs, method, data, None, injection.templates)
    for step in range(5):
        (samples,) = sampler.at(step, torch.arange(2))
        names = [(run.seed, run.concept.name) for run in runs]
        images = pick(draw(names, step, 2, data.shape).image, data.counts[:, None])
        assert samples.prompts.tolist() == images.flatten().tolist()

    together = train(tiny_model, runs, method, progress=False)
    alone = train(tiny_model, runs[1:], method, progress=False)
    torch.testing.assert_close(together[1].vectors, alone[0].vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [TextualInversion, LoRA])
def test_captions_that_are_not_there_are_told(
    method: type[TextualInversion],
    captioned: Concept,
    tiny_model: Model,
    run_of: Callable[..., TrainingRun],
) -> None:
    bare = replace(captioned, captions=None)
    with pytest.raises(UserError, match=r"duck has no captions; write NAME\.txt"):
        captioned_only = method(steps=1, templates="captions")
        Injection(tiny_model, captioned_only, [run_of(bare).prepare(tiny_model)])


def test_the_settings_choose_among_prompts_and_keep_older_keys() -> None:
    assert Training("ti").personalization() == TextualInversion(steps=5000, checkpoint_every=100)
    style = Training("lora", templates="style").personalization()
    assert len(style.prompts) == 19
    told = Training("ti", templates="captions").personalization()
    assert told.captions
    assert told.content()["templates"] == "captions"
    assert "captions" not in TextualInversion().content()


@pytest.mark.parametrize("kind", [TextualInversion, LoRA])
def test_short_captions_train_alike_beside_long_ones(
    tiny_model_folder: Path,
    captioned: Concept,
    run_of: Callable[..., TrainingRun],
    kind: type[TextualInversion] | type[LoRA],
) -> None:
    """Of 75 tokens at most beside such of two chunks, which make the rows of both longer."""
    model = load_model(tiny_model_folder, long_prompts="chunks")
    long = replace(captioned, name="vase", captions=("a red cat on grass and " * 14 + "a {}",) * 3)
    method = kind(steps=3, batch_size=2, templates="captions", learning_rate=1e-3)
    runs = [run_of(captioned), run_of(long)]
    alone, beside = (train(model, runs[:n], method, progress=False)[0] for n in (1, 2))
    torch.testing.assert_close(alone.vectors, beside.vectors, atol=1e-6, rtol=1e-5)
    for name, delta in alone.deltas.items():
        there = beside.deltas[name].weight()
        # As a whole: where a gradient is about zero, Adam makes much of its rounding.
        assert (delta.weight() - there).norm() < 1e-3 * there.norm()
