"""Writes what was learned as files for other programs.

kohya: for AUTOMATIC1111, ComfyUI and kohya's scripts; there an embedding's word is its file's name.
diffusers: for load_textual_inversion and load_lora_weights. Custom Diffusion becomes a LoRA of the
given rank, with the error told, or without a rank the whole change (kohya only).

Example:
    safezone export runs/my-toy --out for-comfyui
    safezone export runs/my-toy --form diffusers --rank 64 --out for-diffusers
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from safezone.commands.console import Answer, Command, Common, Folders
from safezone.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options."""

    adapters: Folders
    """Files of adapters, or folders with such files below them."""
    out: Path
    """Folder for the files."""
    form: Literal["kohya", "diffusers"] = "kohya"
    """Whose names the file has."""
    rank: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Write changes in full as the nearest ones of this rank."""


def run(options: Options) -> Answer:
    """Writes the files of every adapter."""
    from safezone.commands.generate import adapter_files
    from safezone.commands.opening import require_out_folder
    from safezone.personalize import export_adapter, load_adapter

    require_out_folder(options.out)
    found = adapter_files(options.adapters)
    lines, written = [], []
    for file, below in found.items():
        adapter = load_adapter(file)
        if adapter.failed:
            continue
        name = "-".join(below.parts) or file.stem
        folder = options.out / name if options.form == "diffusers" else options.out
        exported = export_adapter(adapter, folder, name, options.form, rank=options.rank)
        for path in exported.files:
            lines.append(f"wrote {path}")
        if exported.error is not None:
            lines.append(f"  relative error of rank {options.rank}: {exported.error:.2%}")
        words = adapter.words
        if words and (adapter.deltas or options.form == "diffusers"):
            lines.append(f"  in prompts: {words}")
        written.append({"files": [str(path) for path in exported.files], "error": exported.error})
    if not written:
        raise UserError(f"{options.adapters[0]} holds failed runs only; train again")
    return Answer({"exported": written}, "\n".join(lines))


COMMAND = Command(__doc__, Options, run)
