"""``safezone report`` and ``score``: what generated images show."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from safezone.commands.arguments import positionals
from safezone.commands.command import Answer, Flat, Folder, OnModel, note
from safezone.errors import UserError
from safezone.fields import Natural
from safezone.lab.presets import preset
from safezone.lab.settings import Scoring, Settings
from safezone.reading import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from safezone.models import Model
    from safezone.results.run_images import RunImages
    from safezone.scores import Row


@dataclass(frozen=True, kw_only=True)
class OnImages(OnModel):
    """The options of what looks at generated images."""

    model: str = "mini"
    """Whose preset of encoders is used, and what --token-encoder compares with; by default the
    model that made the images."""
    scoring: Flat[Scoring] = field(default_factory=Scoring)

    @classmethod
    def own_preset(cls, arguments: Sequence[str]) -> Settings | None:
        """The preset of the model that made the images in the arguments' first folder.

        None where the options choose a model, or where nothing is recorded.
        """
        if any(argument.split("=")[0] in ("--model", "--config") for argument in arguments):
            return None
        names = (_maker(Path(each)) for each in positionals(cls, arguments))
        model = next((name for name in names if name is not None), None)
        return None if model is None else preset(model)


@dataclass(frozen=True, kw_only=True)
class ReportCommand(OnImages):
    """Writes DIR/report.html: pictures side by side, scores with intervals, and what they mean.

    DIR is what `safezone generate`, `safezone claim` or `safezone demo` wrote, or the --out of
    `safezone grid run`: then all its tables stand on one page. The page needs no network and no
    other file. The numbers of one result are also written as rows.csv, table.csv, table.md and
    summary.json.

    Example:
        safezone report runs/my-toy

    Next:
        xdg-open runs/my-toy/report.html
    """

    folder: Folder
    """Folder of results."""
    title: str | None = None
    """The page's heading."""
    pictures: Annotated[Natural | None, tyro.conf.arg(metavar="N")] = None
    """About how many generated images the page holds, 2 kB each in grids; by default 4000."""

    def run(self) -> Answer:
        from safezone.lab.store import ROWS_FILE
        from safezone.results import folder as results
        from safezone.results.artifacts import INDEX, PICTURES
        from safezone.results.run_images import image_folders
        from safezone.scores import read_rows

        folder = self.folder
        pictures = PICTURES if self.pictures is None else self.pictures
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder of `safezone generate`")
        measured = (folder / INDEX).is_file()
        grids = [] if measured else results.grids_in(folder)
        if (measured or grids) and self.scoring != preset(_maker(folder) or "mini").scoring:
            raise UserError(
                f"{folder} was scored when it was measured; leave --model, --config and encoders "
                "out, or measure again with them"
            )
        if measured:
            page = results.rewrite_results(folder, self.title, pictures)
            return _answer(page, rows=len(read_rows(folder / ROWS_FILE)))
        if grids:
            title = self.title or "The paper's tables, measured"
            page = results.write_workspace_page(folder, title, pictures)
            return _answer(page, grids=[grid.name for grid in grids])
        folders = image_folders(folder)
        if not folders:
            raise UserError(
                f"{folder} holds no generated images; make them with `safezone generate`"
            )
        rows = _rows(self, folders)
        index = {
            "title": self.title or f"What was learned in {folder.resolve().name}",
            **_recorded(folders),
            "images": [str(place.relative_to(folder)) for place in folders],
        }
        return _answer(results.write_results(folder, index, rows, pictures), rows=len(rows))


@dataclass(frozen=True, kw_only=True)
class ScoreCommand(OnImages):
    """Compares generated images with the clean images of the object.

    Instance similarity: mean cosine of features of all pairs of a generated and a clean image. CLIP
    scores need to know the prompts, as in a folder that `safezone generate` wrote. The option
    --token-encoder needs the adapter as well, in the folder above or where it was, and the model.

    Example:
        safezone score runs/my-toy/my-toy/szt/seed0/images --clean my-toy

    Next:
        safezone report runs/my-toy
    """

    images: Folder
    """Folder with generated images."""
    clean: Path
    """Folder with the clean images of the object."""

    def run(self) -> Answer:
        import torch

        from safezone.commands.opening import open_encoders, open_model, set_threads
        from safezone.concepts import image_files, load_concept
        from safezone.images import read_image
        from safezone.lab.store import IMAGES_RECORD, require_clean
        from safezone.results.run_images import read_run_images
        from safezone.scores import Pictures, metric_of, score_images

        require_clean(self.clean, "--clean")
        set_threads(self.machine.threads)
        output, prompts, word, placeholder = None, [], "", ""
        if (self.images / IMAGES_RECORD).is_file():
            output = read_run_images(self.images)
            images, prompts = output.images, output.prompts
            word, placeholder = output.class_word, output.placeholder
        else:
            side = min(read_image(image_files(self.images)[0]).shape[:2])
            images = load_concept(self.images, side).images
        clean = load_concept(self.clean, images.shape[-1])
        word, placeholder = word or clean.class_word, placeholder or clean.placeholder
        encoders, tokens = open_encoders(self.scoring, self.machine), {}
        if "token" in encoders:
            if output is None:
                raise UserError(
                    f"{self.images} has no {IMAGES_RECORD}, which --token-encoder needs; give a "
                    "folder that `safezone generate` wrote, or --token-encoder none"
                )
            model = open_model(self.model, self.machine, self)
            tokens = _learned_tokens(output, model, word)
        with torch.no_grad():
            pictures = Pictures(images, prompts, clean.images, word, placeholder, **tokens)
            scores = score_images(pictures, encoders.by_slot)
        lines = [
            f"{metric_of(s.metric).label}: {s.value:.{metric_of(s.metric).decimals + 1}f} "
            f"({s.n_generated} generated, {s.n_reference or 'no'} reference images)"
            for s in scores
        ]
        data = {
            "scores": [score._asdict() for score in scores],
            "encoder": encoders["instance"].name,
        }
        return Answer(data, "\n".join(lines))


def _maker(folder: Path) -> str | None:
    if not folder.is_dir():  # an option; what follows takes seconds to import
        return None
    from safezone.lab.store import IMAGES_RECORD

    record = next(folder.rglob(IMAGES_RECORD), None)
    model = None if record is None else read_json(record).get("model")
    return model if isinstance(model, str) else None


def _learned_tokens(output: "RunImages", model: "Model", class_word: str) -> "dict[str, Tensor]":
    """The fields of ``Pictures`` that keep the learned token: of the adapter that drew the images.

    ``model``: what the adapter is for. Raises UserError where the adapter is gone or of another
    model.
    """
    adapter = output.adapter()
    if adapter is None:
        raise UserError(
            f"{output.place} has no adapter beside it, which --token-encoder needs; generate the "
            "images again, or give --token-encoder none"
        )
    if output.run.model != model.name:
        raise UserError(
            f"{output.place} was drawn by {output.run.model} and --model is {model.name}; "
            "--token-encoder needs the model that drew the images"
        )
    return {"vectors": adapter.vectors, "word_vectors": model.word_vectors(class_word)}


def _answer(page: Path, **more: object) -> Answer:
    return Answer({"page": str(page), **more}, f"report: {page}")


def _recorded(folders: Sequence[Path]) -> dict[str, object]:
    """How the images were sampled, and whether photographs were learned from."""
    from safezone.lab.store import IMAGES_RECORD
    from safezone.results.meaning import MINI_LIMITS

    records = [read_json(each / IMAGES_RECORD) for each in folders]
    photographs = any(record.get("photographs") for record in records)
    if photographs:
        note(f"note: {MINI_LIMITS}.")
    sampling = records[0].get("settings", {})
    return {"settings": {"sampling": sampling}, "photographs": photographs}


def _rows(options: ReportCommand, folders: Sequence[Path]) -> "list[Row]":
    """Scores of the folders whose clean images are known; none where no encoder can be opened."""
    from safezone.commands.opening import open_encoders, open_model, set_threads
    from safezone.lab.makers import score_rows
    from safezone.results.run_images import read_run_images
    from safezone.scores import Pictures

    set_threads(options.machine.threads)
    try:
        encoders = open_encoders(options.scoring, options.machine)
    except UserError as error:
        note(f"note: nothing is scored, since {error}")
        return []
    model = None
    if "token" in encoders:
        model = open_model(options.model, options.machine, options)
    rows: list[Row] = []
    for folder in folders:
        output = read_run_images(folder)
        clean = output.clean_concept()
        if clean is None:
            note(f"note: {folder} is not scored, since its clean images are not known")
            continue
        word = clean.class_word
        tokens = {} if model is None else _learned_tokens(output, model, word)
        images, prompts = output.images, output.prompts
        pictures = Pictures(images, prompts, clean.images, word, output.placeholder, **tokens)
        rows += score_rows(encoders, pictures, output.run, output.poison_model())
    return rows
