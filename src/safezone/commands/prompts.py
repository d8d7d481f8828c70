"""``safezone prompts``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import tyro

from safezone.commands.console import Answer, parse

DESCRIPTION: Final = """\
Shows the prompt lists, or the prompts of one. {} stands for the learned word.

Example:
    safezone prompts
    safezone prompts mini

Next:
    safezone generate runs/my-toy --prompts mini
"""


@dataclass(frozen=True)
class Options:
    """What ``safezone prompts`` is told."""

    name: tyro.conf.Positional[str | None] = None
    """A list, or a text file to be checked."""
    json: bool = False
    """Print one JSON object on standard output."""


def read(arguments: Sequence[str]) -> Options:
    return parse(Options, arguments, name="prompts", description=DESCRIPTION)


def run(options: Options) -> Answer:
    """Prints the names of the lists, or all prompts of one."""
    from safezone.concepts.prompts import PROMPT_LISTS, prompt_list

    if options.name is not None:
        prompts = prompt_list(options.name)
        return Answer({"name": options.name, "prompts": list(prompts)}, "\n".join(prompts))
    lines = [
        f"{name}: {len(list_)} prompts, such as {list_[0]!r}"
        for name, list_ in PROMPT_LISTS.items()
    ]
    return Answer({name: list(prompts) for name, prompts in PROMPT_LISTS.items()}, "\n".join(lines))
