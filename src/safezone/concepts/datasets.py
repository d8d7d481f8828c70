"""Collections of concepts: DreamBooth, CustomConcept101, a folder of folders, the mini world."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch

from safezone.concepts import CONCEPT_FILE, Concept, load_concept, save_concept
from safezone.concepts.folder import OF_SYSTEMS
from safezone.errors import Notice, UserError
from safezone.images import to_square
from safezone.miniworld import NovelConcept, development_concepts, novel_concepts, render
from safezone.reading import parse_json, read_text

DREAMBOOTH_TABLE = "prompts_and_classes.txt"
CUSTOM_CONCEPT_MANIFEST = "dataset.json"


def _dreambooth_classes(table: Path) -> dict[str, str]:
    """The rows below ``subject_name,class`` up to the next blank line."""
    lines = read_text(table).splitlines()
    try:
        start = [line.replace(" ", "") for line in lines].index("subject_name,class") + 1
    except ValueError:
        raise UserError(
            f"{table} has no line subject_name,class; take the file of the DreamBooth data set"
        ) from None
    classes = {}
    for line in lines[start:]:
        if "," not in line:
            break
        subject, class_word = line.split(",", 1)
        classes[subject.strip()] = class_word.strip()
    return classes


def _custom_concept_folders(manifest: Path) -> Iterator[tuple[Path, str]]:
    """Folder and class word of every entry; none leads out of the manifest's folder."""
    try:
        entries = parse_json(read_text(manifest, "JSON"))
        pairs = [(str(e["instance_data_dir"]), str(e["class_prompt"])) for e in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest} is not a list of objects with instance_data_dir and class_prompt; "
            "correct it"
        ) from error
    root = manifest.parent.resolve()
    for directory, class_word in pairs:
        folder = (root / directory).resolve()
        if not folder.is_relative_to(root):
            raise UserError(f"{manifest} names {directory}, outside its own folder; mend the path")
        yield folder, class_word


def _concept_folders(root: Path) -> Sequence[tuple[Path, str | None]]:
    """Each concept's folder and, where the data set tells it, its class word."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the data set")
    if (root / CUSTOM_CONCEPT_MANIFEST).is_file():
        return list(_custom_concept_folders(root / CUSTOM_CONCEPT_MANIFEST))
    table = root / DREAMBOOTH_TABLE
    classes = _dreambooth_classes(table) if table.is_file() else {}
    folders = [each for each in sorted(root.iterdir()) if each.is_dir()]
    return [
        (each, classes.get(each.name))
        for each in folders
        if not each.name.startswith(".") and each.name.lower() not in OF_SYSTEMS
    ]


def _present_folders(root: Path) -> Sequence[tuple[Path, str | None]]:
    """Those that are there; warns of others."""
    folders = _concept_folders(root)
    present = [(folder, word) for folder, word in folders if folder.is_dir()]
    if not present:
        raise UserError(f"{root} holds no concept folders; give the folder that holds the data set")
    if len(present) < len(folders):
        warnings.warn(
            f"{len(folders) - len(present)} of the {len(folders)} concepts listed in {root} "
            "are absent and left out",
            Notice,
            stacklevel=3,
        )
    return present


def _distinct(concepts: Iterable[Concept], root: Path) -> tuple[Concept, ...]:
    """The concepts, no two of one name: that is how runs tell them apart."""
    by_name: dict[str, Concept] = {}
    for concept in concepts:
        if concept.name in by_name:
            raise UserError(
                f"{root} holds two concepts of the name {concept.name}; give one of them another "
                f"in its {CONCEPT_FILE}, or take it away"
            )
        by_name[concept.name] = concept
    return tuple(by_name.values())


def load_dataset(
    root: Path, size: int, *, require_masks: bool = False, min_images: int = 1
) -> tuple[Concept, ...]:
    """All concepts of a data set on disk, as squares of ``size`` pixels.

    With ``dataset.json`` it is read as CustomConcept101, with ``prompts_and_classes.txt`` as
    DreamBooth, else as a folder of concept folders. Listed folders that are absent are left out
    with a warning. Raises UserError when the root or all its concepts are missing, when two have
    one name, when a path of the manifest leads out of the root, and as ``load_concept`` does.
    """
    concepts = (
        load_concept(
            folder, size, class_word=word, require_masks=require_masks, min_images=min_images
        )
        for folder, word in _present_folders(root)
    )
    return _distinct(concepts, root)


def load_readable(root: Path, size: int) -> tuple[tuple[Concept, ...], dict[str, str]]:
    """The concepts of ``load_dataset`` that can be read, and why others cannot, by folder name.

    Raises UserError when the root is missing, when none of its concepts can be read, and when two
    have one name.
    """
    concepts, refused = [], {}
    for folder, word in _present_folders(root):
        try:
            concepts.append(load_concept(folder, size, class_word=word))
        except UserError as error:
            refused[folder.name] = str(error)
    if not concepts:
        reason = next(iter(refused.values()))
        raise UserError(f"{root}: no concept can be read ({reason}); mend or replace it")
    return _distinct(concepts, root), refused


def _rendered(novel: NovelConcept, size: int | None) -> Concept:
    pictures = [render(scene) for scene in novel.scenes]
    side = size or pictures[0].image.shape[0]
    images = [torch.from_numpy(to_square(p.image, side)).permute(2, 0, 1) for p in pictures]
    masks = [torch.from_numpy(to_square(p.mask >= 128, side)) for p in pictures]
    return Concept(
        name=novel.name,
        class_word=novel.class_word,
        images=torch.stack(images).contiguous(),
        masks=torch.stack(masks),
        image_names=tuple(f"{index:02d}" for index in range(len(pictures))),
    )


BuiltinSet: TypeAlias = Literal["novel", "development"]
"""The ten concepts that results are shown on, or the six that settings are chosen on."""

_BUILTIN_SETS: Final[Mapping[BuiltinSet, Callable[[], tuple[NovelConcept, ...]]]] = {
    "novel": novel_concepts,
    "development": development_concepts,
}


def miniworld_concepts(size: int | None = None, which: BuiltinSet = "novel") -> tuple[Concept, ...]:
    """All concepts of one set of the mini world, with exact masks.

    ``size``: the images' side, by default the world's own 128.
    """
    return tuple(_rendered(novel, size) for novel in _BUILTIN_SETS[which]())


def export_concepts(out: Path, which: BuiltinSet = "novel") -> tuple[Path, ...]:
    """Writes one set of the mini world's concepts as folders below ``out``, in their own size.

    ``concept.json`` of each also tells the attributes and the caption of every picture. Returns
    the folders. Raises UserError when a folder is there already or cannot be written.
    """
    return tuple(_export(novel, out / novel.name) for novel in _BUILTIN_SETS[which]())


def export_concept(name: str, folder: Path) -> Path:
    """Writes the novel concept of that name (any case) as ``export_concepts`` writes each.

    Raises UserError for other names, and when the folder is there already.
    """
    novel = {each.name.lower(): each for each in novel_concepts()}
    if name.lower() not in novel:
        names = ", ".join(each.name for each in novel.values())
        raise UserError(f"the built-in concept {name!r} is unknown; give one of {names}")
    return _export(novel[name.lower()], folder)


def _export(novel: NovelConcept, folder: Path) -> Path:
    concept = _rendered(novel, None)
    scenes: list[dict[str, Any]] = [
        {"image": stem, "caption": render(scene).caption, **asdict(scene)}
        for stem, scene in zip(concept.image_names, novel.scenes, strict=True)
    ]
    save_concept(concept, folder, extra={"scenes": scenes})
    return folder
