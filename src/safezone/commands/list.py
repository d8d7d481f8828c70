"""Every name that an option takes: poisons, defenses, methods, models, encoders and more.

Poisons of your own files are known with --poison-file, grids of your own by their YAML file; a
model or an encoder may also be a folder or the name of a repository on the hub, owner/name.

Example:
    safezone list
    safezone list defenses
    safezone list poisons --json
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import tyro

from safezone.commands.console import Answer, Command, Common, plural

Kind = Literal[
    "poisons",
    "defenses",
    "methods",
    "models",
    "encoders",
    "prompts",
    "datasets",
    "tables",
    "figures",
]


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    kind: tyro.conf.Positional[Kind | None] = None
    """Only these names."""


def _summary(thing: object) -> str:
    """The first paragraph of a docstring, shortened to a line."""
    kind = thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing)
    paragraph = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("``", "")
    return textwrap.shorten(paragraph, 100, placeholder=" ...")


def _poisons() -> Mapping[str, str]:
    from safezone.poisons import POISONS

    return {name: _summary(row.objective) for name, row in POISONS.items()}


def _defenses() -> Mapping[str, str]:
    from safezone.defenses import DEFENSES

    parts = ("preprocess", "timesteps", "loss_mask")
    plain = DEFENSES["nominal"]
    return {
        name: ", ".join(
            part.replace("_", " ") for part in parts if getattr(row, part) != getattr(plain, part)
        )
        or "nothing: plain training"
        for name, row in DEFENSES.items()
    }


def _methods() -> Mapping[str, str]:
    from safezone.personalize import METHODS

    return {name: _summary(method) for name, method in METHODS.items()}


def _models() -> Mapping[str, str]:
    from safezone.models import BUILTIN
    from safezone.models.known import KNOWN

    return {name: "built in" for name in BUILTIN} | {
        name: f"{row.hub} on the hub, {row.image_size} px, predicts {row.predicts}, trained as "
        + "; ".join([row.preset, *([row.note] if row.note else [])])
        for name, row in KNOWN.items()
    }


def _encoders() -> Mapping[str, str]:
    from safezone.scores.loading import BUILTIN_ENCODERS, HUB_NAMES

    return {name: "built in" for name in BUILTIN_ENCODERS} | {
        name: f"{repository} on the hub" for name, repository in HUB_NAMES.items()
    }


def _prompts() -> Mapping[str, str]:
    from safezone.concepts.prompts import PROMPT_LISTS

    return {
        name: f"{plural(len(prompts), 'prompt')}, such as {prompts[0]!r}"
        for name, prompts in PROMPT_LISTS.items()
    }


def _datasets() -> Mapping[str, str]:
    from safezone.concepts.datasets import CUSTOM_CONCEPT_MANIFEST, DREAMBOOTH_TABLE
    from safezone.miniworld import novel_concepts

    return {
        "built in": ", ".join(concept.name for concept in novel_concepts()),
        "DreamBooth": f"a folder with {DREAMBOOTH_TABLE}",
        "CustomConcept101": f"a folder with {CUSTOM_CONCEPT_MANIFEST}",
        "your own": "a folder of folders, each with the images of one object",
    }


def _tables() -> Mapping[str, str]:
    from safezone.paper.named import PAPER, headline

    return {name: headline(row) for name, row in PAPER.items() if row.figure is None}


def _figures() -> Mapping[str, str]:
    from safezone.paper.measured.table import FIGURES

    return {str(row.number): row.title for row in FIGURES.values()}


LISTS: Final[Mapping[Kind, tuple[str, Callable[[], Mapping[str, str]]]]] = {
    "poisons": ("--poison", _poisons),
    "defenses": ("--defense; join parts by +, as in jpeg+t600", _defenses),
    "methods": ("--method", _methods),
    "models": ("--model", _models),
    "encoders": ("--instance-encoder, --text-image-encoder", _encoders),
    "prompts": ("--prompts", _prompts),
    "datasets": ("--data", _datasets),
    "tables": ("safezone grid run", _tables),
    "figures": ("safezone figure", _figures),
}
"""Of each kind: where its names are given, and the names with one line on each."""


def run(options: Options) -> Answer:
    """Prints names; opens no model."""
    chosen = LISTS if options.kind is None else {options.kind: LISTS[options.kind]}
    names: dict[str, Mapping[str, str]] = {kind: read() for kind, (_, read) in chosen.items()}
    lines: list[str] = []
    for kind, (place, _) in chosen.items():
        entries = names[kind]
        width = max(map(len, entries))
        lines += ["", f"{kind} ({place}):"]
        lines += [f"  {name:<{width}}  {text}" for name, text in entries.items()]
    return Answer(names, "\n".join(lines[1:]))


COMMAND: Final = Command(__doc__, Options, run)
