"""An audit: plan what can run, run it as one grid, say what follows, write one page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from safezone import __version__
from safezone.audit.cases import Case, Plan, at_budgets
from safezone.audit.flags import Facts
from safezone.audit.outcome import outcomes
from safezone.audit.page import as_json, lead, visibility
from safezone.audit.progress import write_expected
from safezone.audit.suite import Attacker, Suite
from safezone.defenses import defense, fingerprints
from safezone.errors import UserError
from safezone.files import write_json, write_text
from safezone.generate import generate
from safezone.lab.executors import Executor
from safezone.lab.kinds import kind_of
from safezone.lab.lab import Lab
from safezone.lab.training import training_preset
from safezone.models import BUILTIN
from safezone.results.folder import LEAD, measure, rewrite_results
from safezone.results.tables import SIMILARITY
from safezone.scores import Pictures, score_images

AUDIT: Final = "audit.json"


@dataclass(frozen=True, eq=False)
class Audited:
    """What ``audit.json`` holds, the page, and why runs failed."""

    data: dict[str, Any]
    page: Path
    failed: dict[str, str]


def plan_audit(
    lab: Lab,
    cases: tuple[Case, ...],
    suite: Suite,
    methods: tuple[str, ...],
    *,
    seeds: int,
    partial: Sequence[int] = (),
    budgets: Sequence[int] = (),
) -> Plan:
    """What can run on this model with these images; the rest is left out with its reason.

    ``partial``: percents of the images that are protected. ``budgets``: levels of 255 at which the
    poison of the manifest is made again. Raises UserError for budgets of a protection that is not
    ours or has no originals.
    """
    builtin = lab.model.name in BUILTIN
    left_out = {
        each.name: reason
        for each in suite.attackers
        if (reason := _left_out(lab, cases, each, builtin)) is not None
    }
    rows = {}
    if budgets:
        made = cases[0].made
        if "poison" not in made or any(case.clean is None for case in cases):
            raise UserError(
                "--budgets makes the protection again: give images that `safezone poison` made, "
                "and their originals with --clean"
            )
        row = lab.settings.poisoning.poison(str(made["poison"]))
        rows = at_budgets(row, budgets)
    return Plan(
        cases, suite, methods, seeds, tuple(partial), rows, builtin=builtin, left_out=left_out
    )


def _left_out(lab: Lab, cases: tuple[Case, ...], attacker: Attacker, builtin: bool) -> str | None:
    if attacker.needs_masks and any(case.protected.masks is None for case in cases):
        return "it needs masks; give them, or let --masks draw them"
    return missing_part(lab, attacker, builtin)


def missing_part(lab: Lab, attacker: Attacker, builtin: bool) -> str | None:
    """Why the networks of an attacker cannot be used on this machine."""
    model: Any = lab.model
    preprocess = defense(attacker.defense_for(builtin)).preprocess
    for name in vars(preprocess).values():
        if isinstance(name, str) and "/" in name and not _is_here(name):
            return f"{name} is not on this machine; download it once"
    try:
        fingerprints(preprocess, model)
    except UserError as error:
        return str(error)
    return None


def _is_here(name: str) -> bool:
    """Whether a network is a folder or in the hub's cache: an audit fetches nothing by itself."""
    from huggingface_hub import try_to_load_from_cache

    return Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "model_index.json"), str)


def audit(
    lab: Lab,
    plan: Plan,
    folder: Path,
    *,
    title: str,
    command: str,
    executor: Executor | None = None,
    progress: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Audited:
    """Runs what is missing and writes ``audit.json`` and the page into ``folder``.

    A killed audit goes on when it is started again, as any grid does.
    """
    lab = plan.lab(lab)
    grid = plan.grid(lab.model.name)
    write_expected(lab, grid, folder)
    made = measure(
        lab,
        grid,
        folder,
        folder,
        title=title,
        command=command,
        kind="claim",
        executor=executor,
        progress=progress,
        note=note,
    )
    seen = visibility(lab, plan)
    largest = seen[0].linf if seen else None
    training = lab.settings.training
    own = training != training_preset(kind_of(lab.settings.model), training.method)
    facts = Facts(plan, outcomes(plan, made.rows), lab.model.name, floor(lab, plan), largest, own)
    data = dict(as_json(facts, seen, __version__))
    write_json(folder / AUDIT, data)
    write_text(folder / LEAD, lead(lab, facts, seen))
    return Audited(data, rewrite_results(folder), made.failed)


def floor(lab: Lab, plan: Plan) -> float:
    """The similarity of what the model draws for the class words alone, mean over concepts."""
    sampling, values = lab.settings.sampling, []
    for case in plan.cases:
        prompts = [text.format(case.reference.class_word) for text in sampling.texts()]
        (images,) = generate(
            lab.model,
            [None],
            prompts,
            seed=0,
            noise_keys=[case.name],
            steps=sampling.steps,
            guidance=sampling.guidance,
            scheduler=sampling.scheduler,
            progress=False,
        )
        reference = case.reference
        pictures = Pictures(
            images, prompts, reference.images, reference.class_word, reference.placeholder
        )
        scores = score_images(pictures, {"instance": lab.encoders["instance"]})
        values += [score.value for score in scores if score.metric == SIMILARITY]
    return float(torch.tensor(values).mean())
