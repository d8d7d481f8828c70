"""``safezone audit``: does a protection hold? And ``serve``, to ask so with the mouse."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro
from pydantic import Field

from safezone.commands.arguments import early
from safezone.commands.command import (
    Answer,
    Command,
    Flat,
    Folder,
    Machine,
    OnModel,
    command_line,
    note,
    progress,
)
from safezone.errors import UserError
from safezone.fields import Count
from safezone.lab.presets import is_quick, own_cells, quick, read_settings, refuse_models
from safezone.lab.settings import Names, Poisoning, Sampling, Scoring, Settings

if TYPE_CHECKING:
    from safezone.audit.cases import Plan
    from safezone.lab.lab import Lab

Percent: TypeAlias = Annotated[int, Field(gt=0, lt=100, strict=True)]
Level: TypeAlias = Annotated[int, Field(gt=0, lt=256, strict=True)]


@dataclass(frozen=True, kw_only=True)
class AuditCommand(OnModel):
    """Does a protection hold? From a folder of protected images to one page and one audit.json.

    A fixed ensemble of what a careful trainer would do is run on the protected images, and with the
    originals also on those: as posted, compressed, purified, at high timesteps, with masks. The
    score is the owner's worst case. Images of any tool can be given. Kill it and start it again,
    and it goes on.

    Example:
        safezone audit my-toy-protected --clean my-toy --model /models/sd15 --masks
        safezone audit my-toy-protected --clean my-toy --method ti --method lora --dry-run
        safezone audit mug-poisoned --clean mug --budgets 4 --budgets 16

    Next:
        xdg-open runs/audit/report.html
    """

    protected: Folder
    """Protected images of one object, or a folder of such folders."""
    clean: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Their originals, image for image."""
    attacker: Annotated[str, tyro.conf.arg(metavar="SUITE")] = "standard"
    """quick, standard, or a version of them such as standard-1. By default quick draws fewer
    images of each training: six on the built-in models, one for each prompt on others."""
    methods: Annotated[Names, tyro.conf.arg(name="method", metavar="METHOD")] = ("ti",)
    """ti, lora or custom-diffusion; may be given repeatedly."""
    seeds: Count = 1
    """Seeds 0, 1, ... of training and generation."""
    masks: bool = False
    """Draw masks with GrabCut where there are none; the page says so."""
    partial: Annotated[tuple[Percent, ...], tyro.conf.UseAppendAction] = ()
    """Percent of the images that are protected, beside 0 and 100; may be given repeatedly. By
    default 25, 50 and 75, with quick 50."""
    budgets: Annotated[
        tuple[Level, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="LEVEL")
    ] = ()
    """Make the protection again with so many levels of 255; may be given repeatedly."""
    out: Path = Path("runs/audit")
    """Folder of the page."""
    dry_run: bool = False
    """Say what is to do and how long it takes, and write nothing."""
    poisoning: Poisoning = field(default_factory=Poisoning)
    sampling: Sampling = field(default_factory=Sampling)
    scoring: Flat[Scoring] = field(default_factory=Scoring)

    @classmethod
    def own_preset(cls, arguments: Sequence[str]) -> Settings | None:
        """With ``--attacker quick`` the preset that draws fewer images."""
        options = early(arguments)
        if not is_quick(options.attacker or ""):
            return None
        return quick(read_settings(options.config, options.model, method=options.method))

    def run(self) -> Answer:
        from safezone.audit.audit import audit
        from safezone.commands.grid_run import dry
        from safezone.commands.opening import (
            helped,
            machine_and_sharers,
            require_out_folder,
            tell_limits,
        )

        require_out_folder(self.out)
        machine, sharers = machine_and_sharers(self.model, self.machine, alone=self.dry_run)
        options = replace(self, machine=machine)
        lab, plan = plan_of(options)
        lab = replace(lab, sharers=sharers)
        photographs = tell_limits(self.model, [each.original or each.folder for each in plan.cases])
        for name, reason in plan.left_out.items():
            note(f"not run: {name}: {reason}")
        if self.dry_run:
            return dry(lab, plan.grid(lab.model.name))
        done = audit(
            lab,
            plan,
            self.out.absolute(),
            title=f"Does the protection of {', '.join(case.name for case in plan.cases[:3])} hold?",
            command=command_line(),
            photographs=photographs,
            executor=helped(lab, partial(open_audit, options, sharers)),
            progress=progress(),
            note=note,
        )
        lines = [*done.data["verdicts"], *(f"- {text}" for text in done.data["flags"].values())]
        lines += [f"failed: {name}: {reason}" for name, reason in done.failed.items()]
        lines.append(f"\npage: {done.page}")
        data = {**done.data, "page": str(done.page)}
        return Answer(data, "\n".join(lines), status=1 if done.failed else 0)


def plan_of(options: AuditCommand) -> "tuple[Lab, Plan]":
    """The lab of the grid and what is to run; UserError for options that do not fit the images."""
    from safezone.audit.audit import plan_audit
    from safezone.audit.cases import read_cases
    from safezone.audit.suites import suite
    from safezone.commands.opening import open_encoders, open_model
    from safezone.generate import sampler_for
    from safezone.lab.lab import Lab
    from safezone.lab.store import WORK
    from safezone.lab.training import method_named

    ensemble = suite(options.attacker)
    methods = tuple(method_named(name).name for name in dict.fromkeys(options.methods))
    names = ("precision", "long_prompts", "poisoning", "sampling", "scoring")
    told = _told(options)
    _require_use(options, told)
    settings = replace(told, **{name: getattr(options, name) for name in names})
    model = open_model(options.model, options.machine, options)
    # Refused before anything is made.
    sampler_for(model, options.sampling.scheduler, options.sampling.steps)
    cases = read_cases(options.protected, options.clean, model.image_size, masks=options.masks)
    encoders = open_encoders(options.scoring, options.machine)
    concepts = {case.name: case.reference for case in cases}
    lab = Lab(options.out.absolute() / WORK, model, encoders, settings, concepts)
    plan = plan_audit(
        lab,
        cases,
        ensemble,
        methods,
        seeds=options.seeds,
        partial=options.partial or ((50,) if is_quick(options.attacker) else (25, 50, 75)),
        budgets=options.budgets,
    )
    return plan.lab(lab), plan


def _told(options: AuditCommand) -> Settings:
    """What the file says over the preset of the method that it names, or else of the first one."""
    config, first = options.machine.config, options.methods[0]
    told = read_settings(config, options.model, method=first)
    return told if told.training.method == first else read_settings(config, options.model)


def _require_use(options: AuditCommand, told: Settings) -> None:
    """Raises UserError for options that would do nothing. ``told``: without those."""
    from safezone.audit.audit import own_training

    own_cells(options.machine.config, options.model)
    refuse_models(options.machine.config, options.model, "poison_model", "purify_model")
    if options.partial and options.clean is None:
        raise UserError("--partial needs the originals of the other images; give them with --clean")
    method = told.training.method
    if method not in options.methods and own_training(told):
        raise UserError(
            f"{options.machine.config} has trainings of {method}, which are not asked for; give "
            f"--method {method}, or take them out of the file"
        )
    if not options.budgets and options.poisoning != told.poisoning:
        raise UserError(
            "the options that begin with --poisoning are of --budgets, which makes the protection "
            "again; give that, or leave them out"
        )
    if options.budgets and (
        options.poisoning.norm == "l2" or options.poisoning.kappa != told.poisoning.kappa
    ):
        raise UserError(
            "--budgets says by how much every value may change; leave --poisoning.kappa and "
            "--poisoning.norm out"
        )


def open_audit(options: AuditCommand, sharers: int) -> "Lab":
    """The lab of the audit; processes that help call it. ``sharers``: they and the first one."""
    return replace(plan_of(options)[0], sharers=sharers)


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
    port: Annotated[int, Field(ge=0, le=65535, strict=True)] = 8017
    """Of 127.0.0.1, where it answers; 0 is any that is free."""
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
        from safezone.lab.presets import require_spelling
        from safezone.serve.runner import Runner

        require_out_folder(self.folder)
        for name in self.models:
            require_spelling(name)
        options = {f"--{each.name}": getattr(self.machine, each.name) for each in fields(Machine)}
        more = [(name, str(value)) for name, value in options.items() if value is not None]
        runner = Runner(self.models, [word for option in more for word in option])
        with listen(self.port) as listening, locked(self.folder):
            address = f"http://{ADDRESS}:{listening.getsockname()[1]}"
            note(f"open {address} (Ctrl-C ends it)")
            serve(self.folder.absolute(), runner, listening)
        return Answer({"address": address, "folder": str(self.folder)})
