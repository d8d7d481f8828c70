"""Prompt lists: their lengths, their sources, files of prompts."""

import os
import re
from pathlib import Path

import pytest

from safezone.concepts.prompts import DREAMBOOTH_OBJECT_PROMPTS, PROMPT_LISTS, fill, prompt_list
from safezone.errors import UserError
from safezone.lab.settings import Sampling
from safezone.miniworld import BACKGROUND_PHRASES, VOCABULARY

PHOTOS = Path(
    os.environ.get("SAFEZONE_PHOTOS", Path(__file__).parents[2] / "shared/data/dreambooth")
)
TABLE = PHOTOS / "prompts_and_classes.txt"


@pytest.mark.parametrize(
    ("name", "count"), [("object", 27), ("style", 19), ("all25", 25), ("paper24", 24), ("mini", 12)]
)
def test_lists_have_their_known_lengths(name: str, count: int) -> None:
    assert len(prompt_list(name)) == count


@pytest.mark.parametrize("name", PROMPT_LISTS)
def test_every_prompt_has_one_place_for_the_word(name: str) -> None:
    for prompt in prompt_list(name):
        assert prompt.count("{}") == 1
        assert prompt == " ".join(prompt.split())


@pytest.mark.parametrize("name", ["object", "all25", "paper24", "mini"])
def test_object_prompts_differ(name: str) -> None:
    assert len(set(prompt_list(name))) == len(prompt_list(name))


@pytest.mark.skipif(not TABLE.is_file(), reason="the data set's file is not here")
def test_dreambooth_prompts_are_the_official_ones() -> None:
    official = TABLE.read_text().split("Object Prompts")[1].split("Live Subject")[0]
    expected = [line.replace("{0} {1}", "{}") for line in re.findall(r"'(.*)'\.format", official)]
    assert list(DREAMBOOTH_OBJECT_PROMPTS) == expected


def test_paper24_is_all25_but_one() -> None:
    assert set(prompt_list("all25")) - set(prompt_list("paper24")) == {"a cube shaped {}"}


@pytest.mark.parametrize("phrase", BACKGROUND_PHRASES.values())
def test_mini_prompts_ask_for_every_background(phrase: str) -> None:
    assert f"a photo of a {{}} {phrase}" in prompt_list("mini")


def test_mini_prompts_use_the_mini_worlds_words_only() -> None:
    words = {word for prompt in prompt_list("mini") for word in prompt.split()} - {"{}"}
    assert words <= set(VOCABULARY)


@pytest.mark.parametrize(
    ("prompt", "word", "class_word", "filled"),
    [
        ("a photo of a {}", "<duck>", "", "a photo of a <duck>"),
        ("a {} on the beach", "<duck>", "toy", "a <duck> toy on the beach"),
        ("{} and {}", "<a{0}>", "", "<a{0}> and <a{0}>"),
    ],
)
def test_fill(prompt: str, word: str, class_word: str, filled: str) -> None:
    assert fill(prompt, word, class_word) == filled


def test_a_text_file_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\ufeff# my prompts\na {} on a café table\r\n\n  the {}  \n", encoding="utf-8")
    assert prompt_list(str(path)) == ("a {} on a café table", "the {}")


BAD_FILES = [
    (b"# nothing\n\n", r"mine\.txt holds no prompts; write one a line"),
    (b"a {} \xff\xfe\n", r"mine\.txt is not UTF-8 text"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD_FILES)
def test_bad_files_get_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        prompt_list(str(path))


def test_a_complete_prompt_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my prompts.txt"
    path.write_text("a photo of a dog\na {}\n", encoding="utf-8")
    assert prompt_list(str(path)) == ("a photo of a dog", "a {}")
    assert prompt_list("a photo of a dog") == ("a photo of a dog",)
    assert Sampling(("a dog on grass", str(path))).texts() == (
        *("a dog on grass", "a photo of a dog", "a {}"),
    )
    with pytest.raises(UserError, match=r"'a dog on grass' has no \{\}; put"):
        Sampling(("a {}", "a dog on grass")).templates()


def test_an_unknown_name_gets_the_near_one_and_all() -> None:
    with pytest.raises(UserError, match=r"mean all25.*object, style, all25, paper24, mini"):
        prompt_list("all24")
