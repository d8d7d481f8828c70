"""The upper part of an audit's page: the verdict, the flags, pictures in a row, visibility."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from markupsafe import Markup
from torch import Tensor

from safezone import __version__
from safezone.audit.cases import PROTECTED, Case, Plan
from safezone.audit.flags import Facts, raised, verdicts
from safezone.audit.outcome import Outcome, plain_values
from safezone.lab.lab import Lab
from safezone.lab.makers import read_images
from safezone.lab.presets import kind_of
from safezone.lab.run import Run
from safezone.lab.stage import job
from safezone.lab.store import Artifact
from safezone.models.known import known_model, model_path
from safezone.poisons import imperceptibility
from safezone.results.artifacts import GAIN, Picture, amplified_difference, picture
from safezone.results.drawings.panels import Panel, Series, draw_panels
from safezone.results.drawings.style import inline_svg
from safezone.results.page import environment
from safezone.results.statistics import Interval
from safezone.results.tables import method_label
from safezone.scores.rows import NOMINAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CROP: Final = 64
"""Side of the crop that is shown pixel by pixel."""
UNTESTED: Final = "not tested"
FAILED: Final = "failed"
_MODELS: Final = ("sd15", "sd21", "sdxl")
_METHODS: Final = ("textual inversion", "lora", "custom diffusion")


@dataclass(frozen=True)
class Visibility:
    """Of one protection: means over images; ``changed``: the share of values that differ."""

    name: str
    level: int | None
    psnr: float
    ssim: float
    linf: float
    changed: float


def visibility(lab: Lab, plan: Plan) -> list[Visibility]:
    """Of the protected images and of every budget whose poison was made; nothing without
    originals."""
    level_of = {name: level for level, name in plan.of_levels.items()}
    cases = [case for case in plan.cases if case.clean is not None]
    made = [n for n in level_of if all(_poisoned(lab, case, n).done for case in cases)]
    names = dict.fromkeys([PROTECTED, *made])
    return [_visible(lab, cases, name, level_of.get(name)) for name in names] if cases else []


def _poisoned(lab: Lab, case: Case, name: str) -> Artifact:
    run = Run(case.name, name, NOMINAL, _METHODS[0], lab.model.name, 0)
    return job(lab, run).of["poison"]


def _visible(lab: Lab, cases: Sequence[Case], name: str, level: int | None) -> Visibility:
    def images(case: Case) -> Tensor:  # uint8 [n, 3, S, S]
        given = name == PROTECTED
        return (case.protected if given else lab.load(_poisoned(lab, case, name))).images

    clean = torch.cat([case.reference.images for case in cases])
    changed = torch.cat([images(case) for case in cases])
    measured = imperceptibility(clean, changed)
    psnr = measured["psnr"]
    return Visibility(
        name,
        level,
        float(psnr[psnr.isfinite()].mean()) if bool(psnr.isfinite().any()) else math.inf,
        float(measured["ssim"].mean()),
        float(measured["linf"].max()),
        float((clean != changed).float().mean()),
    )


def _line(lab: Lab, plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Four pictures: mine, protected, what plain and what the best careful training learned."""
    case, plain = plan.cases[0], outcome.plain
    careful = [each for each in outcome.attackers if each.attacker != plain.attacker]
    best = max(careful, key=lambda each: each.similarity.mean, default=plain)
    shown = [] if case.clean is None else [("mine", case.clean.images[0])]
    shown.append(("protected", case.protected.images[0]))
    attackers = {each.name: each for each in plan.suite.attackers}
    for title, learned in ((plain.title, plain), (best.title, best)):
        attacker = attackers[learned.attacker]
        defense = attacker.defense_for(plan.builtin)
        run = Run(
            case.name, attacker.poison_name(PROTECTED), defense, outcome.method, lab.model.name, 0
        )
        artifact = job(lab, run).of["generate"]
        if artifact.done:
            shown.append((title, read_images(artifact.place)[0][0]))
    pictures = [(title, picture(image, title, 320)) for title, image in shown]
    return {"outcome": outcome, "concept": case.name, "pictures": pictures}


def _interval(value: Interval | None) -> str:
    if value is None:
        return "–"
    limits = "" if math.isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.mean:.2f}{limits}"


def _close(case: Case) -> list[tuple[str, Picture]]:
    """A crop of the first image, pixel by pixel, and its change enlarged."""
    if case.clean is None:
        return []
    clean, changed = case.clean.images[:1], case.protected.images[:1]
    start = max(0, (clean.shape[-1] - CROP) // 2)
    window = slice(start, start + CROP)
    titles = ("original, 1:1", "protected, 1:1", f"the change, {GAIN} times")
    images = torch.cat([clean, changed, amplified_difference(clean, changed)])
    crops = images[:, :, window, window].contiguous()
    return [(t, picture(crop, t, exact=True)) for t, crop in zip(titles, crops, strict=True)]


def plane(outcomes: Iterable[Outcome], seen: Sequence[Visibility]) -> "Figure | None":
    """What plain and careful training learned at each budget, over how visible it is, by method."""
    panels = []
    for outcome in outcomes:
        levels = [e for e in seen if e.level in outcome.budgets and math.isfinite(e.psnr)]
        if len(levels) < 2:
            continue
        x = torch.tensor([each.psnr for each in levels])
        sides = {"plain training": outcome.budgets, "most careful training": outcome.careful}
        series = [
            Series(name, x, torch.tensor([values[e.level].mean for e in levels if e.level]))
            for name, values in sides.items()
            if all(each.level in values for each in levels)
        ]
        axes = ("PSNR of the protection, dB", "similarity learned")
        panels.append(Panel(method_label(outcome.method), series, *axes))
    return draw_panels("", [panels], width=4.8, height=3.2) if panels else None


def fill_template(name: str, **values: Any) -> str:
    """A template of this room as HTML; every text in ``values`` is escaped."""
    templates = environment("safezone.audit")
    templates.filters["interval"] = _interval
    return templates.get_template(name).render(values)


def _untested(model: str) -> list[str]:
    """The models that the page names beside this one; a name that tells nothing is none of them."""
    told = known_model(model) is not None or model_path(model).is_dir()
    return [each for each in _MODELS if not (told and kind_of(model) == each)]


def _matrix(facts: Facts, others: int) -> Mapping[str, Sequence[str]]:
    """By method what was learned on the model, and that nothing was tested on the others."""
    cells = {
        each.method: f"{each.plain.similarity.mean:.2f} plain, "
        f"{each.worst.similarity.mean:.2f} worst case"
        for each in facts.outcomes
    } | dict.fromkeys(facts.failed, FAILED)
    methods = dict.fromkeys([*facts.plan.methods, *_METHODS])
    return {method: [cells.get(method, UNTESTED), *[UNTESTED] * others] for method in methods}


def _failures(facts: Facts) -> list[tuple[str, str, str]]:
    """Method, training and reason of each training of the suite that failed."""
    titles = {each.name: each.title for each in facts.plan.suite.attackers}
    plain = facts.plan.suite.plain.title
    return [(method, plain, why) for method, why in facts.failed.items()] + [
        (each.method, titles[name], why)
        for each in facts.outcomes
        for name, why in each.failed.items()
    ]


def lead(lab: Lab, facts: Facts, seen: Sequence[Visibility]) -> str:
    """The upper part of the page, as HTML."""
    plan, outcomes = facts.plan, facts.outcomes
    figure = plane(outcomes, seen)
    others = _untested(lab.settings.model)
    return fill_template(
        "audit.html.j2",
        verdicts=verdicts(facts),
        chosen_of=max((len(each.attackers) for each in outcomes), default=0),
        suite=plan.suite.name,
        attackers=len(plan.attackers),
        concepts=len(plan.cases),
        seeds=plan.seeds,
        flags=raised(facts),
        left_out=plan.left_out,
        failures=_failures(facts),
        models=[facts.model, *others],
        matrix=_matrix(facts, len(others)),
        lines=[_line(lab, plan, each) for each in outcomes],
        visibility=seen,
        close=_close(plan.cases[0]),
        methods=len(outcomes),
        plane=None if figure is None else Markup(inline_svg(figure, "visibility", "visibility")),
    )


def as_json(facts: Facts, seen: Sequence[Visibility]) -> dict[str, Any]:
    """What ``audit.json`` holds."""
    plan = facts.plan
    worst = max((each.worst.similarity.mean for each in facts.outcomes), default=None)
    return {
        "suite": plan.suite.name,
        "version": __version__,
        "model": facts.model,
        "concepts": [case.name for case in plan.cases],
        "seeds": plan.seeds,
        "worst_case": worst,
        "floor": facts.floor,
        "methods": {each.method: plain_values(each) for each in facts.outcomes},
        "failed": dict(facts.failed),
        "verdicts": verdicts(facts),
        "flags": {flag.name: flag.text for flag in raised(facts)},
        "left_out": dict(plan.left_out),
        "photographs_on_built_in_model": facts.photographs,
        "visibility": [
            {k: (None if isinstance(v, float) and math.isinf(v) else v) for k, v in vars(e).items()}
            for e in seen
        ],
    }
