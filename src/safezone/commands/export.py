"""Writes what was learned as files for other programs.

kohya: for AUTOMATIC1111, ComfyUI and kohya's scripts; there an embedding's word is its file's name.
diffusers: for load_textual_inversion and load_lora_weights. Custom Diffusion becomes a LoRA of the
given rank, and its error is printed; without a rank the whole change is written (kohya only).

Example:
    safezone export runs/my-toy --out for-comfyui
    safezone export runs/my-toy --form diffusers --rank 64 --out for-diffusers
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from safezone.commands.console import Answer, Command, Common, Folders, Machine, OnModel
from safezone.errors import UserError
from safezone.fields import Count

if TYPE_CHECKING:
    from safezone.personalize import Adapter


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    adapters: Folders
    """Files of adapters, or folders with such files below them."""
    out: Path
    """Folder for the files."""
    form: Literal["kohya", "diffusers"] = "kohya"
    """Whose names the file has."""
    rank: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    """Write changes in full as the nearest ones of this rank."""
    base: Annotated[str | None, tyro.conf.arg(name="model", metavar="MODEL")] = None
    """Model that the adapters are for, as in generate; LoRAs in others' names than diffusers' need
    it."""


def run(options: Options) -> Answer:
    """Writes the files of every adapter."""
    from safezone.commands.generate import adapter_files
    from safezone.commands.opening import open_model, require_out_folder
    from safezone.personalize import export_adapter, load_adapter
    from safezone.personalize.exports import prompt_name, require_form

    require_out_folder(options.out)
    model = None if options.base is None else open_model(options.base, Machine(), OnModel())
    adapters: dict[str, Adapter] = {}
    for file, below in adapter_files(options.adapters).items():
        adapter = load_adapter(file, model)
        if adapter.failed:
            continue
        name = prompt_name("-".join(below.parts) or file.stem)
        if name in adapters:
            raise UserError(f"two adapters would both be written as {name}; export one at a time")
        require_form(adapter, options.form, options.rank)
        adapters[name] = adapter
    if not adapters:
        raise UserError(f"{options.adapters[0]} holds failed runs only; train again")
    before = set(options.out.rglob("*.safetensors"))
    lines, written = [], []
    for name, adapter in adapters.items():
        folder = options.out / name if options.form == "diffusers" else options.out
        exported = export_adapter(adapter, folder, name, options.form, rank=options.rank)
        replaced = [path for path in exported.files if path in before]
        lines += [f"{'replaced' if p in replaced else 'wrote'} {p}" for p in exported.files]
        if exported.error is not None:
            lines.append(f"  relative error of rank {options.rank}: {exported.error:.2%}")
        if exported.words:
            lines.append(f"  in prompts: {exported.words}")
        lines += [f"  note: {limit}" for limit in exported.limits]
        written.append(
            {
                "files": [str(path) for path in exported.files],
                "replaced": [str(path) for path in replaced],
                "error": exported.error,
            }
        )
    return Answer({"exported": written}, "\n".join(lines))


COMMAND = Command(__doc__, Options, run)
