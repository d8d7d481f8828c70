"""Images that share the passes of one poison, in rounds of the one projected-gradient loop.

After each round a checkpoint says what is needed to go on after the process was killed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safezone.arrays import Draws, Images, PerExample, Pixels, stream
from safezone.errors import UserError
from safezone.files import digest, write_safetensors
from safezone.images import to_float, to_uint8
from safezone.models.base import Model
from safezone.poisons.guide import Guide, ModelObjective, target_image, target_posterior
from safezone.poisons.pgd import Slope, captured_slope, projected_gradient
from safezone.poisons.rounds import GreedyTimesteps
from safezone.poisons.row import Poison


@dataclass(frozen=True)
class Checkpoints:
    """Images and random states of unfinished poisons, one file for each pass of images.

    ``folder``: made when the first file is written. ``key``: of all that the result depends on; a
    file of another key, or one that is damaged, counts as absent and is overwritten.
    """

    folder: Path
    key: str

    def _path(self, names: Sequence[str]) -> Path:
        return self.folder / f"{digest(*names)[:16]}.safetensors"

    def save(
        self,
        names: Sequence[str],
        steps: int,
        images: Images,
        generators: Draws,
    ) -> None:
        """Writes the file whole or not at all; UserError when the place cannot be written."""
        path = self._path(names)
        states = torch.stack([generator.get_state() for generator in generators])
        tensors = {"images": images, "generators": states}
        write_safetensors(path, tensors, {"key": self.key, "steps": str(steps)})

    def load(self, names: Sequence[str], generators: Draws) -> tuple[int, Tensor] | None:
        """The steps done and the images then, the generators set as they were; None if absent."""
        path = self._path(names)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                record = file.metadata() or {}
                if record.get("key") != self.key:
                    return None
                images, states = file.get_tensor("images"), file.get_tensor("generators")
        except (OSError, SafetensorError):
            return None
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state.clone())  # set_state ignores the offset of a view
        return int(record["steps"]), images


def streams(
    poison: Poison, seed: int, names: Sequence[str], *purpose: str
) -> list[torch.Generator]:
    """The random stream of each image."""
    return [stream(seed, "poison", poison.name, name, *purpose) for name in names]


@dataclass(eq=False)
class Piece:
    """Images of one concept that stay together: all of them, or what a pass holds.

    ``clean``: uint8 [batch, 3, height, width]. ``masks``: dilated, float [batch, 1, height, width].
    ``images``: where they are after ``done`` steps, float, and None before the first.
    """

    names: Sequence[str]
    clean: Tensor
    masks: Tensor | None
    generators: list[torch.Generator]
    checkpoints: Checkpoints | None
    done: int = 0
    images: Tensor | None = None

    def __post_init__(self) -> None:
        if self.checkpoints is not None:
            kept = self.checkpoints.load(self.names, self.generators)
            self.done, self.images = (0, None) if kept is None else kept

    def save(self, done: int, images: Images) -> None:
        """A checkpoint, where there shall be any."""
        if self.checkpoints is not None:
            self.checkpoints.save(self.names, done, images, self.generators)


@dataclass(frozen=True, eq=False)
class Pass:
    """Pieces that share every pass: their images, float [batch, 3, height, width], and masks.

    ``objectives``: the poison's, for each of the models. ``captured``: the gradient as one function
    of static shapes.
    """

    models: Sequence[Model]
    objectives: Sequence[ModelObjective]
    poison: Poison
    seed: int
    pieces: Sequence[Piece]
    captured: bool = False

    @property
    def names(self) -> list[str]:
        return [name for piece in self.pieces for name in piece.names]

    @cached_property
    def clean(self) -> Images:
        device = self.models[0].device
        return to_float(torch.cat([piece.clean for piece in self.pieces])).to(device)

    @cached_property
    def masks(self) -> Tensor | None:
        masks = [piece.masks for piece in self.pieces if piece.masks is not None]
        return torch.cat(masks).to(self.clean) if masks else None

    def start(self, generators: Draws) -> Images:
        if self.poison.start == "zero":
            return self.clean
        budget = self.poison.budget
        return self.clean + budget.start(generators, self.clean.shape[1:]).to(self.clean)

    @cached_property
    def shape(self) -> Callable[[Images], Images]:
        """The images with their perturbation shaped as the poison says."""
        if self.poison.shaping is None:
            return lambda images: images
        shape = self.poison.shaping.fit(self.clean)

        def shaped(images: Images) -> Images:
            delta = shape(images - self.clean)
            if self.masks is not None:
                delta = delta * self.masks
            return (self.clean + self.poison.budget.project(delta)).clamp(0, 1)

        return shaped

    def evaluate(
        self,
        images: Images,
        generators: Draws,
        guides: Sequence[Guide],
    ) -> PerExample:
        """The objective at one draw of the poison's transform, its mean over the models."""
        images = self.shape(images)
        if self.poison.transform is not None:
            transform, again = self.poison.transform, [_twin(each) for each in generators]
            images, masks = transform(images, self.masks, generators)
            moved = cache(lambda: transform(self.clean, None, again)[0])  # one for all models
            guides = [replace(guide, clean_of=moved, masks=masks) for guide in guides]
        values = [
            objective(model, images, generators, guide)
            for model, objective, guide in zip(self.models, self.objectives, guides, strict=True)
        ]
        for value in values:
            self._require_one_each(value, len(images))
        return torch.stack(values).mean(dim=0)

    def _require_one_each(self, value: object, count: int) -> None:
        """Raises UserError unless an objective gave one number an image."""
        given = type(value).__name__
        if isinstance(value, Tensor):
            if value.shape == (count,) and value.is_floating_point():
                return
            given = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        raise UserError(
            f"the objective of poison {self.poison.name!r} gives {given} for {count} images; "
            f"give one floating-point number an image, ({count},)"
        )

    def step(self, gradient: Tensor, index: int) -> Tensor:
        """The displacement of one step, [batch, 3, height, width]."""
        length = self.poison.direction * self.poison.step_length(index)
        return length * self.poison.budget.steepest(gradient)

    def guides(self) -> list[Guide]:
        """What does not change from round to round, of each model: searched timesteps as well."""
        guides = [fixed_guide(m, self.poison, self.clean, self.masks) for m in self.models]
        search = self.poison.timesteps
        if not isinstance(search, GreedyTimesteps):
            return [self.placed(guide) for guide in guides]
        result = []
        for k, (model, guide) in enumerate(zip(self.models, guides, strict=True)):
            alone = replace(self, models=[model], objectives=[self.objectives[k]])
            timesteps = search.search(
                model,
                lambda _, images, generators, guide, alone=alone: alone.evaluate(  # type: ignore[misc]
                    images, generators, [guide]
                ),
                self.clean,
                streams(self.poison, self.seed, self.names, "timesteps"),
                guide,
            )
            result.append(self.placed(replace(guide, timesteps=timesteps)))
        return result

    def placed(self, guide: Guide) -> Guide:
        """The guide; in a captured function with nothing that lies elsewhere than on the device."""
        if not self.captured:
            return guide
        return replace(guide, timesteps=guide.timesteps.to(self.clean.device))

    def round_guides(self, guides: Sequence[Guide], images: Images, done: int) -> Sequence[Guide]:
        """The guides of the round after ``done`` steps: with the words of the surrogates."""
        surrogate = self.poison.surrogate
        if surrogate is None:
            return guides
        training = self.shape(images), self.names, self.poison.prompt, self.seed, done
        return [
            replace(guide, conditioning=surrogate.learn(model, *training))
            for model, guide in zip(self.models, guides, strict=True)
        ]

    def run(self, after_step: Callable[[int], object]) -> list[Pixels]:
        """The poisoned images, rounded, of each piece; ``after_step`` gets how many steps were
        done."""
        row, sizes = self.poison, [len(piece.names) for piece in self.pieces]
        generators = [each for piece in self.pieces for each in piece.generators]
        done = self.pieces[0].done
        before = [piece.images for piece in self.pieces if piece.images is not None]
        images = torch.cat(before).to(self.clean) if before else self.start(generators)
        after_step(done)
        guides = self.guides() if done < row.steps else []
        current: Sequence[Guide] | None = None
        gradient_of: Slope | None = None
        while done < row.steps:
            steps = min(row.round_steps, row.steps - done)
            before_round, current = current, self.round_guides(guides, images, done)
            objective = partial(self.evaluate, guides=current)
            if self.captured and current is not before_round:
                gradient_of = captured_slope(objective, generators, self.clean.device)
            images = projected_gradient(
                self.clean,
                images,
                objective,
                self.step,
                row.budget,
                generators,
                steps,
                first=done,
                repetitions=row.repetitions,
                allowed=self.masks,
                name=row.name,
                gradient_of=gradient_of,
                after_step=lambda: after_step(1),
            )
            done += steps
            for piece, own in zip(self.pieces, images.split(sizes), strict=True):
                piece.save(done, own)
        with torch.no_grad():
            return list(to_uint8(self.shape(images)).cpu().split(sizes))


def _twin(generator: torch.Generator) -> torch.Generator:
    """Another one, which draws the same from here on."""
    return torch.Generator().set_state(generator.get_state())


@torch.no_grad()
def fixed_guide(model: Model, poison: Poison, clean: Images, masks: Tensor | None = None) -> Guide:
    """The guide of clean images, float [batch, 3, height, width], before any search or training.

    ``masks``: float [batch, 1, height, width] of 0 and 1, dilated already, or None. A prompt's
    ``{}`` is left out until a surrogate has learned something.
    """
    target = target_image(poison.target, *clean.shape[-2:]).to(clean)
    timesteps = poison.timesteps
    steps = model.process.steps
    if isinstance(timesteps, GreedyTimesteps):
        probabilities = torch.full((steps,), 1 / steps, dtype=torch.float64)
    else:
        probabilities = timesteps.checked(steps)
    return Guide(
        conditioning=model.embed_text(model.tokenize([poison.prompt.replace("{}", "").strip()])),
        target=target,
        target_posterior=target_posterior(model, poison.target, target),
        clean_of=lambda: clean,
        encode=model.encode,
        timesteps=probabilities[None],
        masks=masks,
    )
