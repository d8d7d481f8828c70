"""Does a protection hold? From a folder of protected images to one page and one audit.json.

A fixed ensemble of what a careful trainer would do is run on the protected images, and with the
originals also on those: as posted, compressed, purified, at high timesteps, with masks. The score
is the owner's worst case. Images of any tool can be given. Kill it and start it again, and it goes
on.

Example:
    safezone audit my-toy-protected --clean my-toy --model /models/sd15 --masks
    safezone audit my-toy-protected --clean my-toy --method ti --method lora --dry-run
    safezone audit mug-poisoned --clean mug --budgets 4 --budgets 16

Next:
    open runs/audit/report.html
"""

import shlex
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.console import Answer, Command, Flat, Folder, OnModel, note, progress
from safezone.errors import UserError
from safezone.fields import Count
from safezone.lab.settings import Names, Poisoning, Sampling, Scoring

if TYPE_CHECKING:
    from safezone.audit.cases import Plan
    from safezone.lab.lab import Lab


@dataclass(frozen=True, kw_only=True)
class Options(OnModel):
    """The options."""

    protected: Folder
    """Protected images of one object, or a folder of such folders."""
    clean: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Their originals, image for image."""
    attacker: Annotated[str, tyro.conf.arg(metavar="SUITE")] = "standard"
    """quick, standard, or a version of them such as standard-1."""
    methods: Annotated[Names, tyro.conf.arg(name="method", metavar="METHOD")] = ("ti",)
    """ti, lora or custom-diffusion; may be given repeatedly."""
    seeds: Count = 1
    """Seeds 0, 1, ... of training and generation."""
    masks: bool = False
    """Draw masks with GrabCut where there are none; the page says so."""
    partial: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = (25, 50, 75)
    """Percent of the images that are protected, beside 0 and 100; may be given repeatedly."""
    budgets: Annotated[
        tuple[int, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="LEVEL")
    ] = ()
    """Make the protection again with so many levels of 255; may be given repeatedly."""
    out: Path = Path("runs/audit")
    """Folder of the page."""
    dry_run: bool = False
    """Say what is to do and how long it takes, and write nothing."""
    poisoning: Poisoning = field(default_factory=Poisoning)
    sampling: Sampling = field(default_factory=Sampling)
    scoring: Flat[Scoring] = field(default_factory=Scoring)


def plan_of(options: Options) -> "tuple[Lab, Plan]":
    """The lab and what is to run; UserError for options that do not fit the images."""
    from safezone.audit.audit import plan_audit
    from safezone.audit.cases import read_cases
    from safezone.audit.suite import suite
    from safezone.commands.opening import open_encoders, open_model
    from safezone.lab.config import read_settings
    from safezone.lab.lab import Lab
    from safezone.lab.store import WORK
    from safezone.lab.training import method_named

    ensemble = suite(options.attacker)
    methods = tuple(method_named(name).name for name in dict.fromkeys(options.methods))
    if wrong := [n for n in options.partial if not 0 < n < 100]:
        raise UserError(f"--partial {wrong[0]} is no percent between 0 and 100; give one like 50")
    if wrong := [n for n in options.budgets if not 0 < n < 256]:
        raise UserError(f"--budgets {wrong[0]} is no level of 255; give one like 4")
    first = read_settings(options.machine.config, options.model, method=options.methods[0])
    settings = replace(
        first,
        precision=options.precision,
        long_prompts=options.long_prompts,
        poisoning=options.poisoning,
        sampling=options.sampling,
        scoring=options.scoring,
    )
    model = open_model(options.model, options.machine, options)
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
        partial=options.partial,
        budgets=options.budgets,
    )
    return lab, plan


def open_audit(options: Options, sharers: int) -> "Lab":
    """The lab of the audit; processes that help call it. ``sharers``: they and the first one."""
    lab, plan = plan_of(options)
    return replace(plan.lab(lab), sharers=sharers)


def run(options: Options) -> Answer:
    """Audits, or tells what there is to do."""
    from safezone.audit.audit import audit
    from safezone.commands.grid_run import dry
    from safezone.commands.opening import helpers, require_out_folder, tell_limits
    from safezone.lab.executors import Helped

    require_out_folder(options.out)
    if not options.methods:
        raise UserError("no --method is given; give ti, lora or custom-diffusion")
    helping = 0 if options.dry_run else helpers(options.model, options.machine)
    if helping:
        options = replace(options, machine=replace(options.machine, threads=1))
    lab, plan = plan_of(options)
    lab = replace(lab, sharers=helping + 1)
    folders = [case.folder for case in plan.cases]
    if options.clean is not None:
        folders = [options.clean] if len(folders) == 1 else sorted(options.clean.iterdir())
    photographs = tell_limits(options.model, [path for path in folders if path.is_dir()])
    for name, reason in plan.left_out.items():
        note(f"not run: {name}: {reason}")
    if options.dry_run:
        return dry(plan.lab(lab), plan.grid(lab.model.name))
    command = shlex.join(["safezone", *sys.argv[1:]]) if len(sys.argv) > 1 else ""
    opened = partial(open_audit, options, helping + 1)
    executor = Helped(plan.lab(lab), opened, helping, progress()) if helping else None
    done = audit(
        lab,
        plan,
        options.out.absolute(),
        title=f"Does the protection of {', '.join(case.name for case in plan.cases[:3])} hold?",
        command=command,
        executor=executor,
        progress=progress(),
        note=note,
    )
    lines = [*done.data["verdicts"], *(f"- {text}" for text in done.data["flags"].values())]
    lines += [f"failed: {name}: {reason}" for name, reason in done.failed.items()]
    lines.append(f"\npage: {done.page}")
    data = {**done.data, "photographs_on_built_in_model": photographs, "page": str(done.page)}
    return Answer(data, "\n".join(lines), status=1 if done.failed else 0)


COMMAND = Command(__doc__, Options, run)
