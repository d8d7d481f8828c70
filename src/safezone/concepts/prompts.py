"""Prompt lists: training templates, DreamBooth's evaluation prompts, the mini world's."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from safezone.errors import UserError
from safezone.miniworld.captions import BACKGROUND_PHRASES, TEXTUAL_INVERSION_PREFIXES
from safezone.reading import read_text

Templates: TypeAlias = Literal["object", "style", "captions"]
"""What a training's prompts can be called: a list of this module, or each image's own caption."""

OBJECT_TEMPLATES: Final = tuple(
    f"{prefix} {{}}" for prefix in ("a photo of a", *TEXTUAL_INVERSION_PREFIXES)
)
"""The 27 object templates that textual inversion is trained with (diffusers' list)."""

STYLE_TEMPLATES: Final = tuple(
    f"{picture} in the style of {{}}"
    for picture in (
        *("a painting", "a rendering", "a cropped painting", "the painting", "a clean painting"),
        *("a dirty painting", "a dark painting", "a picture", "a cool painting"),
        *("a close-up painting", "a bright painting", "a cropped painting", "a good painting"),
        *("a close-up painting", "a rendition", "a nice painting", "a small painting"),
        *("a weird painting", "a large painting"),
    )
)
"""The 19 style templates (diffusers' list, which holds two of them twice)."""

DREAMBOOTH_OBJECT_PROMPTS: Final = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
    "a {} with a wheat field in the background",
    "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} floating in an ocean of milk",
    "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror",
    "a {} on top of the sidewalk in a crowded street",
    "a {} on top of a dirt road",
    "a {} on top of a white rug",
    "a red {}",
    "a purple {}",
    "a shiny {}",
    "a wet {}",
    "a cube shaped {}",
)
"""DreamBooth's 25 object prompts; {} stands for the unique token, with or without the class."""

PAPER_PROMPTS: Final = DREAMBOOTH_OBJECT_PROMPTS[:-1]
"""The paper speaks of 24 object prompts without saying which of the 25 it leaves out. A guess:
the last one, "a cube shaped {}", which asks for another shape than the concept's own."""

MINI_PROMPTS: Final = (
    *(f"a photo of a {{}} {place}" for place in BACKGROUND_PHRASES.values()),
    *("a photo of a {}", "a {}", "a small {}", "a close photo of a {}"),
)
"""Prompts in the words of the mini world: one for each of its backgrounds and four plain ones."""

PROMPT_LISTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "object": OBJECT_TEMPLATES,
        "style": STYLE_TEMPLATES,
        "all25": DREAMBOOTH_OBJECT_PROMPTS,
        "paper24": PAPER_PROMPTS,
        "mini": MINI_PROMPTS,
    }
)


def fill(prompt: str, word: str, class_word: str = "") -> str:
    """The prompt with every ``{}`` replaced by the word, followed by the class word if given."""
    return prompt.replace("{}", f"{word} {class_word}".strip())


def prompt_list(name: str) -> tuple[str, ...]:
    """The prompts of a list of ``PROMPT_LISTS``, of a text file with one a line, or one itself.

    ``{}`` stands for the learned word; a prompt without it is complete, for adapters that have no
    word. In a file blank lines and lines that start with # are passed over. Text is what has ``{}``
    or white space. Raises UserError for an unknown name and an unreadable file.
    """
    if name in PROMPT_LISTS:
        return PROMPT_LISTS[name]
    if os.path.isfile(name):
        lines = map(str.strip, read_text(Path(name)).splitlines())
        prompts = tuple(line for line in lines if line and not line.startswith("#"))
        if not prompts:
            raise UserError(f"{name} holds no prompts; write one a line, with {{}} for the word")
        return prompts
    if "{}" in name or (len(name.split()) > 1 and not name.endswith(".txt")):
        return (name,)
    near = difflib.get_close_matches(name, PROMPT_LISTS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"prompts {name!r} are neither a list nor a text file; {hint}"
        f"give one of {', '.join(PROMPT_LISTS)}, a file, or a prompt of several words"
    )
