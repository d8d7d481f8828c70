"""``safezone serve``: the audit with the mouse."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from safezone.commands.console import Answer, Command, Flat, Machine, note
from safezone.errors import UserError
from safezone.fields import Checked
from safezone.lab.settings import Names


@dataclass(frozen=True)
class Place(Checked):
    """Where it answers."""

    port: Annotated[int, Field(ge=0, le=65535, strict=True)] = 8017
    """Of 127.0.0.1; 0 is any that is free."""


@dataclass(frozen=True, kw_only=True)
class ServeCommand(Command):
    """A page to use the audit with the mouse: give pictures, correct masks, start, read the
    verdict.

    It answers this machine only, asks nobody for anything, and keeps what it is given in one
    folder. What it does is `safezone audit`, and for pictures that are not protected yet `safezone
    poison` before; stop it, or kill it, and it goes on when it is started again. Open the address
    that it prints.

    Examples:
        safezone serve
        safezone serve --folder my-audits --model /models/sd15 --model mini

    Next:
        open http://127.0.0.1:8017
    """

    folder: Path = Path("runs/serve")
    """Where pictures and audits are kept."""
    models: Annotated[Names, tyro.conf.arg(name="model", metavar="NAME")] = ("mini",)
    """Built-in model, diffusers folder or hub name that the page offers; may be given
    repeatedly."""
    place: Flat[Place] = field(default_factory=Place)
    machine: Flat[Machine] = field(default_factory=Machine)

    def run(self) -> Answer:
        try:
            from safezone.serve.app import ADDRESS, listen, serve
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            raise UserError(
                f"the page needs {name}; install it with `pip install safezone[ui]`"
            ) from error
        from safezone.commands.opening import require_out_folder
        from safezone.files import locked
        from safezone.lab.kinds import require_spelling
        from safezone.serve.runner import Runner

        require_out_folder(self.folder)
        for name in self.models:
            require_spelling(name)
        runner = Runner(self.models, _more(self.machine))
        with listen(self.place.port) as listening, locked(self.folder):
            address = f"http://{ADDRESS}:{listening.getsockname()[1]}"
            note(f"open {address} (Ctrl-C ends it)")
            serve(self.folder.absolute(), runner, listening)
        return Answer({"address": address, "folder": str(self.folder)})


def _more(machine: Machine) -> list[str]:
    """What the commands that the page starts are told of the machine."""
    told = {"--device": machine.device, "--threads": machine.threads, "--config": machine.config}
    return [
        word for name, value in told.items() if value is not None for word in (name, str(value))
    ]
