"""Opening models, encoders and folders for the commands."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from safezone.commands.command import OnModel, Processor, note, progress
from safezone.concepts import CONCEPT_FILE, Concept
from safezone.concepts.folder import inner_folders
from safezone.errors import UserError
from safezone.generate import sampler_for
from safezone.lab.executors import Helped, OpenLab
from safezone.lab.lab import Lab
from safezone.lab.memory import keep_freed_memory, memory_left
from safezone.lab.run import content_key
from safezone.lab.settings import Scoring, Settings
from safezone.lab.store import manifest, poison_of, require_clean, require_finite
from safezone.models import BUILTIN, Model, load_model
from safezone.models.known import dtype_of, set_precision
from safezone.models.parts import pick_device
from safezone.reading import read_json
from safezone.results.meaning import MINI_LIMITS
from safezone.scores import CLEAN, SLOTS, CachedEncoder, Encoders
from safezone.scores.table import NONE


def idle_cores(seconds: float = 0.3) -> float:
    """How many of the cores that we may use were idle while we looked.

    The load average would still count an installation that ended a minute ago.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    return cores * (1 - psutil.cpu_percent(seconds) / 100)


def set_threads(threads: int | None) -> None:
    """As many CPU threads as asked for, else as OMP_NUM_THREADS says, else one an idle core.

    More threads than idle cores make everything several times slower, not faster.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, round(idle_cores())))


AnyProcessor = TypeVar("AnyProcessor", bound=Processor)

_HELPER_BYTES = 2 * 2**30
"""What a helping process takes, with room."""


def machine_and_sharers(
    model: str, machine: AnyProcessor, *, alone: bool = False
) -> tuple[AnyProcessor, int]:
    """The machine of each process that shares a grid, and how many these are: this one and helpers.

    The built-in model's layers are too small for two threads: two processes of one are faster. None
    helps where we shall be ``alone``, where threads were asked for, on a GPU, or without idle cores
    and memory for it.
    """
    fixed = machine.threads is not None or "OMP_NUM_THREADS" in os.environ
    if alone or fixed or model not in BUILTIN or pick_device(machine.device).type != "cpu":
        return machine, 1
    helping = max(0, min(round(idle_cores()) - 1, memory_left() // _HELPER_BYTES))
    return replace(machine, threads=1) if helping else machine, helping + 1


def helped(lab: Lab, open_lab: OpenLab) -> Helped | None:
    """This process with those that share its lab; None where it is alone."""
    return Helped(lab, open_lab, lab.sharers - 1, progress()) if lab.sharers > 1 else None


def open_model(name: str, machine: Processor, how: OnModel | Settings) -> Model:
    """The model with finite weights, and as many threads as make sense; UserError otherwise.

    ``how``: its precision and what becomes of long prompts.
    """
    set_threads(machine.threads)
    keep_freed_memory()
    dtype = dtype_of(how.precision)
    model = load_model(name, machine.device, dtype, long_prompts=how.long_prompts)
    model.precision = set_precision(how.precision, model.device)
    if how.precision == "float16" and model.device.type == "cpu":
        raise UserError("float16 needs a GPU; give precision bfloat16 or float32")
    require_finite(model, name)
    return model


def open_encoders(scoring: Scoring, machine: Processor) -> Encoders:
    """The encoders of the settings; ``none`` leaves a slot that is optional empty."""
    from transformers.utils import logging as untyped

    libraries: Any = untyped
    libraries.disable_progress_bar()
    device = machine.device or "cpu"
    encoders: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for slot in SLOTS.values():
        name = getattr(scoring, slot.setting)
        if slot.optional and name == NONE:
            continue
        encoder = slot.load(name, device)
        require_finite(encoder, name)
        keys[slot.name] = encoder.fingerprint()
        encoders[slot.name] = CachedEncoder(encoder) if slot.cached else encoder
    return Encoders(encoders, content_key(keys))


def with_models(lab: Lab, machine: Processor, concepts: Callable[[int], Iterable[Concept]]) -> Lab:
    """The lab with the models of its settings that poison and purify, where they are others.

    ``concepts``: all clean ones, in squares of so many pixels. Raises UserError for sampling that
    the lab's model cannot do, before anything is made.
    """
    sampler_for(lab.model, lab.settings.sampling.scheduler, lab.settings.sampling.steps)
    models = {lab.settings.model: lab.model}

    def model(name: str) -> Model:
        if name not in models:
            models[name] = open_model(name, machine, lab.settings)
        return models[name]

    poisoners = tuple(model(name) for name in lab.settings.poison_model)
    sizes = {each.image_size for each in poisoners}
    if len(sizes) > 1:
        raise UserError("the models given as --poison-model differ in image size; give such of one")
    originals = {}
    if sizes - {lab.model.image_size}:
        originals = {each.name: each for each in concepts(sizes.pop())}
    purifier = None if lab.settings.purify_model is None else model(lab.settings.purify_model)
    return replace(lab, poisoners=poisoners, originals=originals, purifier=purifier)


def is_procedural(folder: Path) -> bool:
    """Whether a folder holds pictures of the built-in world (exported or poisoned from such)."""
    if manifest(folder).get("procedural"):
        return True
    return (folder / CONCEPT_FILE).is_file() and "scenes" in read_json(folder / CONCEPT_FILE)


def tell_limits(model: str, folders: Sequence[Path]) -> bool:
    """Says on standard error what the built-in model cannot do with photographs; True if said."""
    photographs = model in BUILTIN and not all(is_procedural(folder) for folder in folders)
    if photographs:
        note(f"note: {MINI_LIMITS}; give --model a Stable Diffusion folder for that.")
    return photographs


def how_many(asked: int | None, there: int) -> int:
    """Of so many concepts; UserError where more, or none, are asked for."""
    most = there if asked is None else asked
    if not 1 <= most <= there:
        raise UserError(f"There are {there} concepts; give --concepts 1 to {there}.")
    return most


def require_clean_data(data: Path | None) -> None:
    """Raises UserError for a data set with a folder that ``safezone poison`` wrote."""
    for folder in inner_folders(data) if data is not None and data.is_dir() else ():
        require_clean(folder, "--data")


def clean_source(folder: Path) -> Path | None:
    """The folder of the clean images: the folder itself, or that which it was poisoned from."""
    if poison_of(folder) == CLEAN:
        return folder
    source = manifest(folder).get("source")
    path = Path(source) if isinstance(source, str) else None
    return path if path is not None and path.is_dir() else None


def require_out_folder(out: Path, option: str = "--out") -> None:
    """Raises UserError when ``out`` or one of its parents is a file."""
    for place in (out, *out.absolute().parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"{place} is a file; give {option} a folder")
