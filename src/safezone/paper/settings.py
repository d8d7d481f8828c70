"""What a table or figure of the paper is made with on the paper's own model."""

from collections.abc import Mapping
from typing import Any

from safezone.lab.run import Scope
from safezone.lab.settings import Settings, preset
from safezone.lab.training import Training
from safezone.lab.variants import METHOD_NAMES, split_method, training_of
from safezone.models.known import KNOWN, hub_name
from safezone.paper.row import PaperRow


def settings_for(row: PaperRow, model: str) -> Settings:
    """The preset of the model and of the row's method, with what the row itself says."""
    run = row.build(Scope(model, ("any",), (0,))).runs[0]
    return row.settings(preset(model, METHOD_NAMES[split_method(run.method)[0]]))


def trainings(row: PaperRow, settings: Settings) -> list[Training]:
    """Of each of the row's methods, as a lab has them."""
    grid = row.build(Scope(settings.model, ("any",), (0,)))
    methods = dict.fromkeys(run.method for run in grid)
    return [training_of(settings.training, method, settings.model) for method in methods]


def paper_settings(row: PaperRow) -> Mapping[str, Any]:
    """JSON values by name; a list where the columns of a table differ in it."""
    model = hub_name(row.model)
    settings = settings_for(row, model)
    every = trainings(row, settings)
    poison = settings.poisoning.poison("adm+")

    def of(name: str) -> Any:
        values = list(dict.fromkeys(getattr(training, name) for training in every))
        return values[0] if len(values) == 1 else values

    return {
        "model": model,
        "image_size": KNOWN[row.model].image_size,
        "predicts": KNOWN[row.model].predicts,
        "dataset": row.dataset,
        "method": of("method"),
        "steps": of("steps"),
        "batch_size": of("batch_size"),
        "accumulation": of("accumulation"),
        "learning_rate": of("learning_rate"),
        "schedule": of("schedule"),
        **({"rank": of("rank")} if of("method") == "lora" else {}),
        **({"crop_rescale": of("crop_rescale")} if of("method") == "custom-diffusion" else {}),
        "poisons_made_on": list(settings.poison_model) or [model],
        "purified_on": settings.purify_model or model,
        "kappa": f"{settings.poisoning.kappa * 255:g}/255",
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
