"""What a reader has to know before trusting the numbers of a page."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from safezone import __version__
from safezone.lab.kinds import kind_of
from safezone.results.published import Published
from safezone.results.tables import count, label, number
from safezone.scores.rows import CLEAN, Row

MINI_LIMITS: Final = (
    "The built-in model was trained on a small procedural world of flat, coloured objects on eight "
    "backgrounds: it cannot draw photographs, faces, text or any other object, so what it makes of "
    "real photographs shows that the steps run, not whether a protection holds"
)


def caveats(rows: Sequence[Row], photographs: bool) -> list[str]:
    """Which world the numbers are of, and whether they are too few."""
    result = []
    if photographs:
        result.append(MINI_LIMITS + ".")
    elif any(kind_of(row.model) == "mini" for row in rows):
        result.append(
            "Measured on the built-in model of a procedural world: the same code runs on Stable "
            "Diffusion, the numbers do not carry over."
        )
    if any(row.poison != CLEAN for row in rows):
        result.append(poison_note(rows))
    concepts, seeds = len({row.concept for row in rows}), len({row.seed for row in rows})
    if rows and (concepts < 6 or seeds < 2):
        result.append(
            f"{count(concepts, 'concept')} and {count(seeds, 'seed')}: "
            "too few to tell small differences from noise."
        )
    return result


def poison_note(rows: Sequence[Row]) -> str:
    """Whether the poisons were made on the model that met them."""
    poisoned = [row for row in rows if row.poison != CLEAN]
    carried = {row.poison_model: None for row in poisoned if row.poison_model}
    if not carried:
        return "White box: the poisons were made on the model that was personalized."
    met = ", ".join(dict.fromkeys(row.model for row in poisoned if row.poison_model))
    rest = "" if all(row.poison_model for row in poisoned) else ", some; the others are white box"
    return f"Carried over: the poisons were made on {', '.join(carried)} and met by {met}{rest}."


def paper_notes(papers: Mapping[str, Published]) -> list[str]:
    """What has to be known before the paper's numbers are compared with ours."""
    if not papers:
        return []
    first = next(iter(papers.values()))
    result = [
        f"The paper's numbers are of {first.method} on {first.model} and {first.dataset}, without "
        "error bars or seeds; cells that it ran twice differ by up to 0.03 DINOv2 similarity, "
        "16 FID and 0.04 CLIP score."
    ]
    if "frechet" in papers:
        result.append(
            "The Fréchet distance here is of the instance encoder's features, not of Inception's: "
            "compare the order of its values with that of the paper's FID, not the values. FID "
            "itself is measured with --inception-encoder, from which file is in the settings."
        )
    return [*result, *dict.fromkeys(paper.note for paper in papers.values() if paper.note)]


def pooled_notes(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """The FID of each cell over all concepts and seeds, one sentence for a method and model."""
    parts: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        parts.setdefault((cell["method"], cell["model"]), []).append(
            f"{label(cell['poison'])}, {label(cell['defense'])} {number(cell['value'], 1)} "
            f"({cell['n_generated']} generated, {cell['n_reference']} reference images)"
        )
    return [
        f"FID over all concepts and seeds at once, {method} on {model}: {'; '.join(values)}."
        for (method, model), values in parts.items()
    ]


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    result = {"safezone": __version__}
    for name in ("torch", "diffusers", "transformers", "pillow", "numpy"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result


def duration_text(seconds: float) -> str:
    """``48 s``, ``12 min 5 s``, ``3 h 2 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
