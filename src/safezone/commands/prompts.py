"""Shows the prompt lists, or the prompts of one. {} stands for the learned word.

Example:
    safezone prompts
    safezone prompts mini

Next:
    safezone generate runs/my-toy --prompts mini
"""

from dataclasses import dataclass

import tyro

from safezone.commands.console import Answer, Command, Common


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    name: tyro.conf.Positional[str | None] = None
    """A list, or a text file to be checked."""


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


COMMAND = Command(__doc__, Options, run)
