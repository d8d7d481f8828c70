"""``safezone list``, ``prompts``, ``concepts`` and ``models``: what is there without any run."""

import inspect
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import tyro

from safezone.commands.command import Answer, Command
from safezone.errors import UserError
from safezone.fields import plural

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

PLACES: Final[Mapping[str, str]] = {
    "poisons": "--poison",
    "defenses": "--defense; join parts by +, as in jpeg+t600",
    "methods": "--method",
    "models": "--model",
    "encoders": "--instance-encoder, --text-image-encoder",
    "prompts": "--prompts",
    "datasets": "--data",
    "tables": "safezone grid run",
    "figures": "safezone figure",
}
"""Of each kind: where its names are given."""


@dataclass(frozen=True, kw_only=True)
class ListCommand(Command):
    """Every name that an option takes: poisons, defenses, methods, models, encoders and more.

    Poisons of your own files are known with --poison-file, grids of your own by their YAML file; a
    model or an encoder may also be a folder or the name of a repository on the hub, owner/name.

    Example:
        safezone list
        safezone list defenses
        safezone list poisons --json
    """

    kind: tyro.conf.Positional[Kind | None] = None
    """Only these names."""

    def run(self) -> Answer:
        kinds: tuple[Kind, ...] = get_args(Kind) if self.kind is None else (self.kind,)
        names: dict[str, Mapping[str, str]] = {kind: _names(kind) for kind in kinds}
        lines: list[str] = []
        for kind, entries in names.items():
            width = max(map(len, entries))
            lines += ["", f"{kind} ({PLACES[kind]}):"]
            lines += [f"  {name:<{width}}  {text}" for name, text in entries.items()]
        return Answer(names, "\n".join(lines[1:]))


def _names(kind: Kind) -> Mapping[str, str]:
    """All names of a kind with a line on each; imports what has them, and nothing else."""
    match kind:
        case "poisons":
            from safezone.poisons import POISONS

            own = ("transform", "timesteps", "mask", "shaping", "surrogate")
            return {
                name: ("raised" if row.direction > 0 else "lowered")
                + "".join(f"; own {part}" for part in _others(row, POISONS["adm+"], own))
                + f": {_summary(row.objective)}"
                for name, row in POISONS.items()
            }
        case "defenses":
            from safezone.defenses import DEFENSES

            parts = ("preprocess", "timesteps", "loss_mask", "words")
            plain = DEFENSES["nominal"]
            return {
                name: ", ".join(_others(row, plain, parts)).replace("_", " ")
                or "nothing: plain training"
                for name, row in DEFENSES.items()
            }
        case "methods":
            from safezone.personalize import METHODS

            return {name: _summary(method) for name, method in METHODS.items()}
        case "models":
            from safezone.models import BUILTIN
            from safezone.models.known import KNOWN

            return dict.fromkeys(BUILTIN, "built in") | {
                name: f"{row.hub} on the hub, {row.image_size} px, predicts {row.predicts}, "
                f"trained as {'; '.join(filter(None, (row.preset, row.note)))}"
                for name, row in KNOWN.items()
            }
        case "encoders":
            from safezone.scores.loading import BUILTIN_ENCODERS, HUB_NAMES

            return dict.fromkeys(BUILTIN_ENCODERS, "built in") | {
                name: f"{repository} on the hub" for name, repository in HUB_NAMES.items()
            }
        case "prompts":
            from safezone.concepts.prompts import PROMPT_LISTS

            return {
                name: f"{plural(len(prompts), 'prompt')}, such as {prompts[0]!r}"
                for name, prompts in PROMPT_LISTS.items()
            }
        case "datasets":
            from safezone.concepts.datasets import CUSTOM_CONCEPT_MANIFEST, DREAMBOOTH_TABLE
            from safezone.miniworld import novel_concepts

            return {
                "built in": ", ".join(concept.name for concept in novel_concepts()),
                "DreamBooth": f"a folder with {DREAMBOOTH_TABLE}",
                "CustomConcept101": f"a folder with {CUSTOM_CONCEPT_MANIFEST}",
                "your own": "a folder of folders, each with the images of one object",
            }
        case "tables":
            from safezone.paper.named import headline
            from safezone.paper.rows import PAPER

            return {name: headline(row) for name, row in PAPER.items() if row.figure is None}
        case "figures":
            from safezone.paper.measured.table import FIGURES

            return {str(row.number): row.title for row in FIGURES.values()}


def _others(row: object, usual: object, parts: Sequence[str]) -> list[str]:
    """The parts of a row that are not as usual."""
    return [part for part in parts if getattr(row, part) != getattr(usual, part)]


def _summary(thing: object) -> str:
    """The first paragraph of a docstring, shortened to a line."""
    kind = thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing)
    paragraph = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("``", "")
    return textwrap.shorten(paragraph, 100, placeholder=" ...")


@dataclass(frozen=True, kw_only=True)
class PromptsCommand(Command):
    """Shows the prompt lists, or the prompts of one. {} stands for the learned word.

    Example:
        safezone prompts
        safezone prompts mini

    Next:
        safezone generate runs/my-toy --prompts mini
    """

    name: tyro.conf.Positional[str | None] = None
    """A list, or a text file to be checked."""

    def run(self) -> Answer:
        from safezone.concepts.prompts import PROMPT_LISTS, prompt_list

        if self.name is not None:
            prompts = list(prompt_list(self.name))
            return Answer({"name": self.name, "prompts": prompts}, "\n".join(prompts))
        lines = [f"{name}: {text}" for name, text in _names("prompts").items()]
        return Answer({name: list(each) for name, each in PROMPT_LISTS.items()}, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class ConceptsCommand(Command):
    """The ten built-in concepts: objects of the procedural world, unknown to the built-in model.

    Example:
        safezone concepts list
        safezone concepts show concepts.png
        safezone concepts export concepts
        safezone concepts export development --set development

    Next:
        safezone poison concepts/HattedMug --out concepts-poisoned/HattedMug
    """

    action: tyro.conf.Positional[Literal["list", "show", "export"]] = "list"
    """list; show FILE.png: one sheet of all images; export DIR: folders with images and masks."""
    out: tyro.conf.Positional[Path | None] = None
    """The sheet's file or the folder to make."""
    set: Literal["novel", "development"] = "novel"
    """The ten that results are shown on, or six others to choose settings on."""

    def run(self) -> Answer:
        import torch

        from safezone.concepts.datasets import export_concepts, miniworld_concepts
        from safezone.files import require_new
        from safezone.images import write_png

        if self.action == "export":
            if self.out is None:
                raise UserError("no folder is given; write safezone concepts export DIR")
            require_new(self.out)
            paths = [str(folder) for folder in export_concepts(self.out, self.set)]
            return Answer({"folders": paths}, "\n".join(paths))
        if self.action == "list" and self.out is not None:
            raise UserError(f"list takes no {self.out}; write safezone concepts export {self.out}")
        concepts = miniworld_concepts(which=self.set)
        names = [
            {"name": c.name, "class_word": c.class_word, "images": len(c.images)} for c in concepts
        ]
        lines = [f"{each['name']}: {each['class_word']}, {each['images']} images" for each in names]
        if self.action == "show":
            out = self.out or Path("concepts.png")
            if out.suffix.lower() != ".png":
                raise UserError(f"{out} does not end in .png; the sheet is a PNG")
            rows = [torch.cat(list(concept.images), dim=-1) for concept in concepts]
            write_png(out, torch.cat(rows, dim=-2))
            lines.append(f"sheet: {out}")
        return Answer({"concepts": names}, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class ModelsCommand(Command):
    """Lists the models and encoders that have a name, prints the folder of a built-in one, or
    converts pickled weights.

    The folder of mini is a plain diffusers folder: StableDiffusionPipeline.from_pretrained opens
    it. Elsewhere --model also takes sd15 and the other names of the list, your own diffusers folder
    or any hub name.

    Example:
        safezone models list
        safezone models path mini
        safezone models convert ByteDance/sd2.1-base-zsnr-laionaes5 models/sd21-v

    Next:
        safezone demo --out demo-output
    """

    action: tyro.conf.Positional[Literal["list", "path", "convert"]] = "list"
    """list, path NAME, or convert NAME OUT."""
    name: tyro.conf.Positional[str | None] = None
    """The model or encoder whose folder is printed; the folder or hub name to convert."""
    out: tyro.conf.Positional[Path | None] = None
    """The new folder of converted weights."""

    def run(self) -> Answer:
        taken = {"list": 0, "path": 1, "convert": 2}[self.action]
        for more in [self.name, self.out][taken:]:
            if more is not None:
                raise UserError(f"models {self.action} takes no {more}; leave it out")
        return {"list": self._list, "path": self._path, "convert": self._convert}[self.action]()

    def _list(self) -> Answer:
        from safezone.lab.presets import preset
        from safezone.models.known import KNOWN

        models, lines = [], ["built in:"]
        for name, folder in _builtin_folders().items():
            size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
            state = f"{size / 2**20:.1f} MiB" if size else "weights missing"
            lines.append(f"  {name}: {state}, {folder}")
            models.append({"name": name, "path": str(folder), "bytes": size})
        known = []
        lines += ["", "on the hub, by these names:"]
        for name, row in KNOWN.items():
            own = preset(name).training
            training = f"{own.steps} steps of {own.batch_size} image at {own.learning_rate}"
            if own.accumulation > 1:
                training += f", each of {own.accumulation} passes"
            also = f" (also {', '.join(row.also)})" if row.also else ""
            kind = f"{row.image_size} pixels, predicts {row.predicts}"
            lines += [
                f"  {name}: {row.hub}{also}",
                f"    {'; '.join(filter(None, (kind, training, row.note)))}",
            ]
            known.append({"name": name, **asdict(row), "training": training})
        return Answer({"models": models, "known": known}, "\n".join(lines))

    def _path(self) -> Answer:
        folders = _builtin_folders()
        if self.name not in folders:
            raise UserError(
                f"there is no built-in model or encoder {self.name!r}; "
                f"give one of {', '.join(folders)}"
            )
        folder = folders[self.name]
        if not folder.is_dir():
            raise UserError(f"the weights of {self.name} are missing at {folder}; reinstall")
        return Answer({"name": self.name, "path": str(folder)}, str(folder))

    def _convert(self) -> Answer:
        from safezone.models.parts import convert

        if self.name is None or self.out is None:
            raise UserError(
                "convert needs a folder or hub name, and the new folder for the weights"
            )
        folder = convert(self.name, self.out)
        model = shlex.quote(str(folder))
        text = f"converted: {folder}\nnext: safezone personalize FOLDER --out OUT --model {model}"
        return Answer({"path": str(folder)}, text)


def _builtin_folders() -> dict[str, Path]:
    """Name to folder, whether the weights are there or not."""
    from safezone.models import BUILTIN
    from safezone.scores import loading

    names = (*BUILTIN, *loading.BUILTIN_ENCODERS)
    return {name: loading.BUILTIN_FOLDER / name for name in names}
