"""Lists the models and encoders that have a name, prints the folder of a built-in one, or converts
pickled weights.

The folder of mini is a plain diffusers folder: StableDiffusionPipeline.from_pretrained opens it.
Elsewhere --model also takes sd15 and the other names of the list, your own diffusers folder or any
hub name.

Example:
    safezone models list
    safezone models path mini
    safezone models convert ByteDance/sd2.1-base-zsnr-laionaes5 models/sd21-v

Next:
    safezone demo --out demo-output
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from safezone.commands.console import Answer, Command, Common
from safezone.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    action: tyro.conf.Positional[Literal["list", "path", "convert"]] = "list"
    """list, path NAME, or convert NAME OUT."""
    name: tyro.conf.Positional[str | None] = None
    """The model or encoder whose folder is printed; the folder or hub name to convert."""
    out: tyro.conf.Positional[Path | None] = None
    """The new folder of converted weights."""


def run(options: Options) -> Answer:
    """Prints names and folders, or reads pickled weights as weights only and writes safetensors."""
    if options.action == "convert":
        return _converted(options)
    folders = _folders()
    if options.action == "path":
        if options.name not in folders:
            raise UserError(
                f"there is no built-in model or encoder {options.name!r}; "
                f"give one of {', '.join(folders)}"
            )
        folder = folders[options.name]
        if not folder.is_dir():
            raise UserError(f"the weights of {options.name} are missing at {folder}; reinstall")
        return Answer({"name": options.name, "path": str(folder)}, str(folder))
    lines, data = ["built in:"], []
    for name, folder in folders.items():
        size = (
            sum(p.stat().st_size for p in folder.rglob("*.safetensors")) if folder.is_dir() else 0
        )
        state = f"{size / 2**20:.1f} MiB" if size else "weights missing"
        lines.append(f"  {name}: {state}, {folder}")
        data.append({"name": name, "path": str(folder), "bytes": size})
    known = _known()
    lines += ["", "on the hub, by these names:"]
    for each in known:
        also = f" (also {', '.join(each['also'])})" if each["also"] else ""
        lines += [
            f"  {each['name']}: {each['hub']}{also}",
            f"    {each['image_size']} pixels, predicts {each['predicts']}; {each['training']}"
            + (f"; {each['note']}" if each["note"] else ""),
        ]
    return Answer({"models": data, "known": known}, "\n".join(lines))


def _converted(options: Options) -> Answer:
    from safezone.models.converting import convert
    from safezone.models.known import hub_name

    if options.name is None or options.out is None:
        raise UserError("convert needs a folder or hub name, and the new folder for the weights")
    folder = convert(hub_name(options.name), options.out)
    text = f"converted: {folder}\nnext: safezone personalize FOLDER --model {folder}"
    return Answer({"path": str(folder)}, text)


COMMAND = Command(__doc__, Options, run)


def _folders() -> dict[str, Path]:
    """Name to folder, whether the weights are there or not."""
    from safezone.models import BUILTIN
    from safezone.scores import loading

    names = (*BUILTIN, *loading.BUILTIN_ENCODERS)
    return {name: loading.BUILTIN_FOLDER / name for name in names}


def _known() -> list[dict[str, Any]]:
    """The paper's models: where each is on the hub, and what textual inversion on it is."""
    from safezone.lab.settings import preset
    from safezone.models.known import KNOWN

    found = []
    for name, model in KNOWN.items():
        training = preset(name).training
        text = f"{training.steps} steps of {training.batch_size} image at {training.learning_rate}"
        if training.accumulation > 1:
            text += f", each of {training.accumulation} passes"
        found.append({"name": name, **asdict(model), "training": text})
    return found
