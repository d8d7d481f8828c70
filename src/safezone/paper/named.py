"""The paper's tables and figures by name: where each is run, how, what it costs, what was found."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from safezone.errors import UserError
from safezone.fields import plural
from safezone.lab.presets import preset
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Scope
from safezone.lab.settings import CANDIDATES, Settings
from safezone.lab.variants import METHOD_NAMES, PAPER_STEPS, split_method, training_of
from safezone.models.known import KNOWN, hub_name
from safezone.paper.rows import PAPER, ROWS, PaperRow
from safezone.results.published import AVERAGE, Published
from safezone.results.tables import label, method_label
from safezone.scores.rows import CLEAN, NOMINAL

_MINI: Final[Mapping[str, str]] = {
    "sd15": "mini", "sd15-rf": "mini-rf", "sd21": "mini", "sd21-v": "mini-v"
}  # fmt: skip
"""The built-in twin of each of the paper's models; of SDXL there is none."""

_MODELS: Final[Mapping[str, str]] = {
    "sd15-rf": "SD 1.5 as rectified flow",
    "sd21": "SD 2.1",
    "sd21-v": "SD 2.1, velocity",
    "sdxl": "SDXL",
}
"""How headlines call what is not SD 1.5."""

_SETTINGS: Final = ["method", "steps", "batch_size", "accumulation", "learning_rate", "schedule"]
"""Of a training, that are shown of every row; below those of one method."""
_OF_A_METHOD: Final[Mapping[str, Sequence[str]]] = {
    "lora": ("rank",), "custom-diffusion": ("crop_rescale",)
}  # fmt: skip

_DEFAULT: Final = "schedule=constant;lr=5e-4;steps=5k"
"""The column of the tables of hyperparameters that is the paper's training."""


def paper_grid(name: str) -> PaperRow:
    """The paper's table or figure of that name; UserError with near names for another."""
    if name in PAPER:
        return PAPER[name]
    near = difflib.get_close_matches(name, PAPER, n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `safezone grid list`"
    own = "or give `safezone grid run` a YAML file of your own"
    raise UserError(f"there is no grid {name!r}; {hint} {own}")


def group_of(row: PaperRow) -> str:
    """The heading under which ``safezone grid list`` has it."""
    paper = row.printed
    if row.figure is not None or paper is None:
        return "Figures"
    if paper.method != TEXTUAL_INVERSION:
        return "Other methods, SD 1.5"
    return "Textual inversion, SD 1.5" if paper.model == "sd15" else "Other models"


def headline(row: PaperRow) -> str:
    """One line: what is compared, by what, on what."""
    paper = row.printed
    own = [] if row.dataset == "NovelConcepts10" else [row.dataset]
    if row.figure is not None or paper is None:
        return row.title + "".join(f" ({name})" for name in own) + "."
    parts = [paper.printed_metric, method_label(paper.method)]
    parts += [_MODELS[paper.model]] if paper.model in _MODELS else []
    return f"{row.title}: {', '.join(parts + own)}."


def command(row: PaperRow) -> str:
    """What runs it: on the built-in twin of its model, or on the model itself where none is."""
    where = "mini" if row.model in _MINI else f"sd15 --data {row.dataset}"
    concepts = "" if row.part or row.model not in _MINI else f" --concepts {row.concepts}"
    seeds = 3 if row.table is not None else 1
    return f"safezone grid run {row.name} --model {where}{concepts} --seeds {seeds}"


def _one_seed(row: PaperRow) -> Grid:
    """On as many concepts as the paper's smaller data set has."""
    return row.build(Scope(row.model, tuple(f"concept {i}" for i in range(10)), (0,)))


def cost(row: PaperRow) -> str:
    """How many trainings and poisonings are new after the tables and figures before it."""
    grid = _one_seed(row)
    earlier = None
    for other in ROWS:
        if other is row:
            break
        runs = set(_one_seed(other))
        if other.dataset == row.dataset and runs >= set(grid):
            if len(runs) == len(grid):
                return f"none after {other.name}, whose runs these are"
            earlier = earlier or other.name
    share = 1 if row.part else len({run.concept for run in grid})
    poisoned = {(run.concept, run.poison) for run in grid if run.poison != CLEAN}
    trainings = plural(len(grid) // share, "training")
    if len(row.methods) == 1:
        steps = split_method(row.methods[0])[1]["steps"]
        trainings += f" of {steps.replace('k', '000')} of {PAPER_STEPS} steps"
    text = f"{trainings} and {plural(len(poisoned) // share, 'poisoning')}"
    text += " a seed" if row.part else " for each concept and seed"
    text += f", none after {earlier}" if earlier else ""
    return text + (f"; {CANDIDATES} images a training" if row.prompt else "")


def finding(row: PaperRow) -> str:
    """What the paper says of a figure; of a table from its printed numbers."""
    paper = row.printed
    if row.finding or paper is None:
        return row.finding
    if AVERAGE in paper.poisons:
        best, szt = _best(paper, AVERAGE, NOMINAL), ""
        if best != "szt" and "szt" in paper.columns:
            szt = f", SZT {_number(paper, AVERAGE, 'szt')}"
        return (
            f"clean {_number(paper, CLEAN, NOMINAL)}; over the poisons Nominal "
            f"{_number(paper, AVERAGE, NOMINAL)}, best {label(best)} "
            f"{_number(paper, AVERAGE, best)}{szt}"
        )
    usual = NOMINAL if NOMINAL in paper.columns else _DEFAULT
    parts = []
    for poison in ("adm+", "ea"):
        best = _best(paper, poison, usual)
        parts.append(
            f"{label(poison)} {_number(paper, poison, usual)}, best "
            f"{_number(paper, poison, best)} ({label(best)})"
        )
    return f"default and best: {'; '.join(parts)}"


def _best(paper: Published, poison: str, usual: str) -> str:
    """The column other than the ``usual`` one with the best number; the first of equals."""
    sign = -1 if paper.metric == "frechet" else 1
    others = [name for name in paper.columns if name != usual]
    return max(others, key=lambda name: sign * paper.values[poison, name])


def _number(paper: Published, poison: str, name: str) -> str:
    value = paper.values[poison, name]
    return f"{value:.0f}" if paper.metric == "frechet" else f"{value:.2f}"


def model_for(name: str, family: str) -> str:
    """Which model the grid is run on: ``family`` is ``mini``, ``sd15`` or a model of its own.

    ``mini`` and ``sd15`` stand for the paper's models: table 26 with ``sd15`` is Stable Diffusion
    2.1. Any other name or folder is taken as it is. UserError where the family has none.
    """
    wanted = paper_grid(name).model
    if family == "sd15":
        return hub_name(wanted)
    if family != "mini":
        return family
    if wanted not in _MINI:
        raise UserError(
            f"{name} is of {wanted}, which has no built-in twin; give --model a folder of it"
        )
    return _MINI[wanted]


def settings_for(row: PaperRow, model: str) -> Settings:
    """The preset of the model and of the row's method, with what the row itself says."""
    run = row.build(Scope(model, ("any",), (0,))).runs[0]
    return row.settings(preset(model, METHOD_NAMES[split_method(run.method)[0]]))


def paper_settings(row: PaperRow) -> Mapping[str, Any]:
    """JSON values by name; a list where the columns of a table differ in it."""
    model = hub_name(row.model)
    settings = settings_for(row, model)
    grid = row.build(Scope(model, ("any",), (0,)))
    methods = dict.fromkeys(run.method for run in grid)
    every = [training_of(settings.training, method, settings.model) for method in methods]
    poison = settings.poisoning.poison("adm+")

    def of(name: str) -> Any:
        values = list(dict.fromkeys(getattr(training, name) for training in every))
        return values[0] if len(values) == 1 else values

    return {
        "model": model,
        "image_size": KNOWN[row.model].image_size,
        "predicts": KNOWN[row.model].predicts,
        "dataset": row.dataset,
        **{name: of(name) for name in (*_SETTINGS, *_OF_A_METHOD.get(of("method"), ()))},
        "poisons_made_on": list(settings.poison_model) or [model],
        "purified_on": settings.purify_model or model,
        "kappa": f"{poison.budget.kappa * 255:g}/255",
        "eta": f"{poison.eta * 255:g}/255",
        "poison_steps": poison.steps,
        "prompts": len(settings.sampling.texts()),
        "images_per_prompt": settings.sampling.images_per_prompt,
        "denoising_steps": settings.sampling.steps,
        "guidance": settings.sampling.guidance,
    }


def setting_lines(row: PaperRow) -> list[str]:
    """``paper_settings`` as aligned lines of text."""

    def text(value: Any) -> str:
        return ", ".join(map(text, value)) if isinstance(value, list) else f"{value}"

    values = paper_settings(row)
    width = max(map(len, values))
    return [f"  {name.replace('_', ' '):<{width}}  {text(value)}" for name, value in values.items()]
