"""An audit: plan what can run, run it as one grid, tell how far it is, write one page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from safezone.audit.cases import Case, Plan
from safezone.audit.flags import Facts
from safezone.audit.outcome import outcomes
from safezone.audit.page import as_json, lead, visibility
from safezone.audit.protection import change_of
from safezone.audit.suites import Attacker, Suite
from safezone.concepts.prompts import fill
from safezone.defenses import defense, fingerprints
from safezone.errors import UserError
from safezone.files import locked, write_json, write_text
from safezone.generate import generate
from safezone.lab.cost import count_passes
from safezone.lab.executors import Executor
from safezone.lab.lab import TRAINING_FOLDER, Lab, Note
from safezone.lab.presets import is_quick, preset, quick
from safezone.lab.run import Grid
from safezone.lab.settings import Settings
from safezone.lab.stage import planned
from safezone.lab.store import WORK
from safezone.models import BUILTIN
from safezone.personalize.checkpoints import log_path
from safezone.poisons import Budget, Poison
from safezone.reading import read_json
from safezone.results.folder import LEAD, measure, rewrite_results
from safezone.results.tables import SIMILARITY
from safezone.scores import Pictures, score_images

AUDIT: Final = "audit.json"
EXPECTED: Final = "expected.json"
"""In an audit's folder: artifacts and seconds by stage, and the steps of every run."""
_LOCK: Final = ".audit.lock"
_OVERHEAD: Final = 0.2
"""Seconds that reading and writing one artifact take beside the operations that are counted."""


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
    poison of the manifests is made again, but for the one that the images have, where they were
    made with the same settings. Raises UserError for budgets of a protection that is not ours, of
    several, or without originals.
    """
    left_out = {}
    bare = ", ".join(case.name for case in cases if case.protected.masks is None)
    for each in suite.attackers:
        if each.needs_masks and bare:
            left_out[each.name] = (
                f"it needs masks, and there are none of {bare}; give them, or let --masks draw them"
            )
        elif (reason := missing_part(lab, each)) is not None:
            left_out[each.name] = reason
    poisons = {}
    if budgets:
        made = {str(case.manifest.get("poison", "")) for case in cases}
        if "" in made or any(case.clean is None for case in cases):
            raise UserError(
                "--budgets makes the protection again: give images that `safezone poison` made, "
                "and their originals with --clean"
            )
        if len(made) > 1:
            raise UserError(
                f"--budgets makes one protection again, and these are {', '.join(sorted(made))}; "
                "audit the concepts of each by themselves"
            )
        row = lab.settings.poisoning.one_poison(*made)
        if row.budget.norm != "linf":
            raise UserError(
                f"--budgets says by how much every value may change, and the budget of {row.name} "
                "is of another kind; leave it out"
            )
        rows = {level: replace(row, budget=Budget(level / 255)) for level in budgets}
        poisons = {n: each for n, each in rows.items() if not _theirs(lab, cases, each)}
    builtin, levels = lab.model.name in BUILTIN, tuple(budgets)
    return Plan(cases, suite, methods, seeds, tuple(partial), levels, poisons, builtin, left_out)


def _theirs(lab: Lab, cases: Sequence[Case], poison: Poison) -> bool:
    """Whether the protected images are just what the poison would make on this model."""
    settings = {**poison.record(), "model": lab.model.name}
    return all(
        case.manifest.get("kappa") == poison.budget.kappa
        and all(case.manifest.get(name, value) == value for name, value in settings.items())
        for case in cases
    )


def missing_part(lab: Lab, attacker: Attacker) -> str | None:
    """Why the networks of an attacker cannot be used on this machine; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    preprocess = defense(attacker.defense_for(lab.model.name in BUILTIN)).preprocess
    for name in vars(preprocess).values():
        if not isinstance(name, str) or "/" not in name or Path(name).is_dir():
            continue
        if not isinstance(try_to_load_from_cache(name, "model_index.json"), str):
            return f"{name} is not on this machine; download it once"
    try:
        fingerprints(preprocess, lab.model)
    except UserError as error:
        return str(error)
    return None


def audit(
    lab: Lab,
    plan: Plan,
    folder: Path,
    *,
    title: str,
    command: str,
    photographs: bool = False,
    executor: Executor | None = None,
    progress: bool = True,
    note: Note = lambda text: None,
) -> Audited:
    """Runs what is missing and writes ``audit.json`` and the page into ``folder``.

    ``lab``: the plan's own. ``photographs``: whether the built-in model learns from such. A killed
    audit goes on when it is started again, as any grid does. Raises UserError, and touches nothing,
    when another process audits there.
    """
    grid = plan.grid(lab.model.name)
    changes = [change_of(case) for case in plan.cases]
    with locked(folder, file=_LOCK):
        write_expected(lab, grid, folder)
        (folder / AUDIT).unlink(missing_ok=True)  # an earlier one, which is not of the new tables
        made = measure(
            lab,
            grid,
            folder,
            folder,
            title=title,
            command=command,
            kind="claim",
            photographs=photographs,
            made_here=False,
            executor=executor,
            progress=progress,
            note=note,
        )
        seen = visibility(lab, plan)
        ended, failed = outcomes(plan, made.rows)
        facts = Facts(
            plan,
            ended,
            lab.model.name,
            floor(lab, plan),
            changes,
            own_training=own_training(lab.settings),
            own_sampling=own_sampling(lab.settings, plan.suite.name),
            photographs=photographs,
            failed=failed,
        )
        data = as_json(facts, seen)
        write_json(folder / AUDIT, data)
        write_text(folder / LEAD, lead(lab, facts, seen))
        return Audited(data, rewrite_results(folder), made.failed)


def own_training(settings: Settings) -> bool:
    """Whether their trainings give something else than those of the model's preset."""
    training = settings.training
    usual = preset(settings.model, training.method).training
    return training.personalization().content() != usual.personalization().content()


def own_sampling(settings: Settings, suite: str) -> bool:
    """Whether other images are drawn than those of the suite."""
    usual = preset(settings.model)
    return settings.sampling != (quick(usual) if is_quick(suite) else usual).sampling


def floor(lab: Lab, plan: Plan) -> float:
    """The similarity of what the model draws for the class words alone, mean over concepts."""
    sampling, values = lab.settings.sampling, []
    for case in plan.cases:
        prompts = [fill(text, case.reference.class_word) for text in sampling.texts()]
        (images,) = generate(
            lab.model,
            [None],
            prompts,
            seed=0,
            noise_keys=[case.name],
            steps=sampling.steps,
            guidance=sampling.guidance,
            guidance_rescale=sampling.guidance_rescale,
            scheduler=sampling.scheduler,
            progress=False,
        )
        clean = case.reference
        pictures = Pictures(images, prompts, clean.images, clean.class_word, clean.placeholder)
        scores = score_images(pictures, {"instance": lab.encoders["instance"]})
        values += [score.value for score in scores if score.metric == SIMILARITY]
    return float(torch.tensor(values).mean())


@dataclass(frozen=True)
class Progress:
    """``share``: in [0, 1], by time. ``seconds``: of all work, as estimated. ``stage``: the one
    that is made now, empty when all are there. ``begun``: the share that was there at the start."""

    share: float
    seconds: float
    stage: str
    begun: float


def write_expected(lab: Lab, grid: Grid, folder: Path) -> None:
    """Writes what will have been made in the end, done or not, for ``read_progress``."""
    passes, stages = count_passes(lab.model, lab.poisoners), {}
    for stage, artifacts in planned(lab, grid):
        runs = [job.run for job in artifacts.values()]
        stages[stage.name] = {
            "places": [each.place.relative_to(lab.folder).as_posix() for each in artifacts],
            "seconds": stage.seconds(lab, runs, passes) + _OVERHEAD * len(runs),
        }
    steps = {run.label: lab.training(run).steps for run in grid}
    told = {"stages": stages, "steps": steps}
    write_json(folder / EXPECTED, {**told, "begun": _progress(told, lab.folder).share})


def read_progress(folder: Path) -> Progress | None:
    """How far the audit of this folder is; None where none has begun."""
    path = folder / EXPECTED
    return _progress(read_json(path), folder / WORK) if path.is_file() else None


def _progress(told: Mapping[str, Any], work: Path) -> Progress:
    done, seconds, now = 0.0, 0.0, ""
    for name, stage in told["stages"].items():
        places = [work / place for place in stage["places"]]
        made = float(sum(place.is_dir() for place in places))
        if made < len(places):
            now = now or name
            if name == "personalize":
                made = min(float(len(places)), made + _begun(work, told["steps"]))
        seconds += stage["seconds"]
        done += stage["seconds"] * (made / max(1, len(places)))  # exactly all where all are there
    share = done / seconds if seconds else 1.0
    return Progress(share, seconds, now, told.get("begun", 0.0))


def _begun(work: Path, steps: Mapping[str, int]) -> float:
    """The trainings in progress, each as the share of its steps that its log has."""
    folders = [path for path in (work / TRAINING_FOLDER).glob("*") if path.is_dir()]
    return sum(
        _last_step(log_path(folder, label)) / count
        for folder in folders
        for label, count in steps.items()
    )


def _last_step(log: Path) -> int:
    """Of a log that another process may be writing; 0 where there is none."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            entry: dict[str, Any] = json.loads(line)
            return int(entry["step"])
        except (ValueError, KeyError, TypeError):
            continue  # half-written
    return 0
