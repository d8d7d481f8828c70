"""Images of prompts with and without adapters: one batch over all, the same noise for each."""

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm.auto import tqdm

from safezone.arrays import Latents, randn, stream
from safezone.errors import UserError
from safezone.images import to_uint8, write_png
from safezone.models.base import Conditioning, Model, Tokens
from safezone.models.captured import Captured
from safezone.models.deltas import Changes
from safezone.models.denoise import walk
from safezone.personalize.adapters import Adapter, stacked
from safezone.personalize.files import check_fits


class MadeNaN(UserError):
    """One adapter's images became NaN; those of others may not."""


def with_words(prompt: str, adapter: Adapter | None) -> str:
    """The prompt with the adapter's words for ``{}``; UserError where it has none."""
    if "{}" not in prompt:
        return prompt
    if adapter is None or not adapter.words:
        raise UserError(
            f"The prompt {prompt!r} has {{}} for a placeholder but there is no adapter with a word "
            "for it; write the prompt in full or give an adapter."
        )
    return prompt.replace("{}", adapter.words)


def sampler_for(model: Model, scheduler: str, steps: int) -> Any:
    """diffusers' scheduler of that name, at the first of its steps.

    Raises UserError for a name that the model has no scheduler for, and for more steps than it can
    take.
    """
    sampler = model.scheduler(scheduler)
    try:
        sampler.set_timesteps(steps, device=model.device)
    except ValueError as error:
        raise UserError(
            f"steps is {steps}, more than {scheduler} can take; give at most {model.process.steps}."
        ) from error
    return sampler


def _embed(
    model: Model,
    adapters: Sequence[Adapter | None],
    pairs: Sequence[tuple[Adapter | None, int, str]],
) -> Conditioning:
    """One row for each (adapter, its place in ``adapters``, prompt), in one pass.

    The place after the last is that of no adapter.
    """
    parts = []
    most = max([1, *(len(adapter.vectors) for adapter, _, _ in pairs if adapter is not None)])
    vectors = torch.zeros(len(pairs), most, model.embedding_width, device=model.device)
    for row, (adapter, _, prompt) in enumerate(pairs):
        count = 0 if adapter is None else len(adapter.vectors)
        if adapter is None or not count:
            parts.append(model.tokenize([with_words(prompt, adapter)]))
            continue
        word = adapter.placeholder
        if "{}" in prompt:  # the word of a file may be an ordinary one, which stays what it is
            words, word = adapter.words.replace(word, "{}", 1), "{}"
            prompt = prompt.replace("{}", words)
        parts.append(model.tokenize([prompt], word, count))
        vectors[row, :count] = adapter.vectors.to(vectors)
    tokens = Tokens.joined(parts, model.tokenize([""]))
    layers = stacked([*adapters, None], model.layers, model.device)
    owners = torch.tensor([place for _, place, _ in pairs], device=model.device)
    return model.embed_text(tokens, vectors, Changes(layers, owners) if layers else None)


def _denoise(
    model: Model,
    conditioning: Conditioning,
    rows: Tensor,
    empty: Tensor,
    latents: Latents,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float,
    rescale: float,
    scheduler: str,
    captured: bool,
) -> Latents:
    """The sampler's loop; ``rows`` and ``empty``: each image's row of the conditioning, and that
    of the empty prompt beside it."""
    sampler = sampler_for(model, scheduler, steps)
    takes_generator = "generator" in inspect.signature(sampler.step).parameters
    extra: dict[str, Any] = {"generator": list(generators)} if takes_generator else {}
    guided = guidance != 1.0
    if guided:
        rows = torch.cat([empty, rows])
    conditioning = conditioning[rows.to(model.device)]
    # Flow-matching samplers start from unit noise and take latents as they are.
    latents = latents.to(model.device) * getattr(sampler, "init_noise_sigma", 1.0)
    scale = getattr(sampler, "scale_model_input", lambda sample, timestep: sample)

    def guide(scaled: Latents, timestep: Tensor) -> Latents:
        if guided:
            scaled = torch.cat([scaled, scaled])
        prediction = model.predict(scaled, timestep.expand(len(scaled)), conditioning)
        if guided:
            without, with_prompt = prediction.chunk(2)
            prediction = without + guidance * (with_prompt - without)
            prediction = _rescaled(prediction, with_prompt, rescale)
        return model.process.to_stock(prediction)

    once = Captured(guide, model.device) if captured else guide

    def predict(latents: Latents, time: Tensor) -> Latents:
        return once(scale(latents, time), model.process.timestep_of(time))

    def step(latents: Latents, prediction: Latents, time: Tensor, _: Tensor | None) -> Latents:
        stepped: Latents = sampler.step(prediction, time, latents, **extra).prev_sample
        return stepped

    return walk(latents, sampler.timesteps, predict, step)


@torch.no_grad()
def generate(
    model: Model,
    adapters: Sequence[Adapter | None],
    prompts: Sequence[str],
    images_per_prompt: int = 1,
    *,
    seed: int,
    noise_keys: Sequence[str] | None = None,
    steps: int = 25,
    guidance: float = 5.0,
    guidance_rescale: float = 0.0,
    scheduler: str = "ddim",
    batch_size: int = 16,
    size: int | None = None,
    captured: bool = False,
    progress: bool = True,
) -> list[UInt8[Tensor, "images 3 height width"]]:
    """For each adapter uint8 [prompts x images_per_prompt, 3, size, size], prompt after prompt.

    ``adapters``: None stands for the plain model, whose prompts must be written in full; elsewhere
    ``{}`` in a prompt is the adapter's placeholder. ``noise_keys``: one for each adapter; image k
    of prompt p starts from the noise that (seed, key, p, k) names, so give adapters that are to
    be compared the same key, such as the concept's name; by default all have the same.
    ``steps``: of ``scheduler``. ``guidance``: classifier-free guidance
    e = e("") + guidance (e(prompt) - e("")) (Ho & Salimans); 1 is none.
    ``guidance_rescale``: the share, 0 to 1, of the guided prediction that is brought to the
    deviation of the prompt's own (Lin et al. 2024, Eq. 14 to 16, where it is 0.7). ``batch_size``:
    images in one pass, of whatever adapters; it does not change the result beyond float tolerance.
    ``size``: the images' side in pixels, by default the model's. ``captured``: each prediction as
    one CUDA graph (GPU); the same to rounding.

    Raises UserError for values out of range and for images that became NaN.
    """
    counts = {"images_per_prompt": images_per_prompt, "steps": steps, "batch_size": batch_size}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}; give at least 1.")
    if not (guidance >= 0 and math.isfinite(guidance)):
        raise UserError(f"guidance is {guidance}; give 0 or more.")
    if not 0 <= guidance_rescale <= 1:
        raise UserError(f"guidance_rescale is {guidance_rescale}; give 0 to 1.")
    if not prompts:
        raise UserError("There are no prompts to generate; give at least one.")
    side = model.image_size if size is None else size
    if side < 1 or side % model.factor:
        raise UserError(f"size is {side}; give a multiple of {model.factor}.")
    keys = [""] * len(adapters) if noise_keys is None else list(noise_keys)
    if len(keys) != len(adapters):
        raise ValueError(f"{len(keys)} noise keys for {len(adapters)} adapters")
    for adapter in adapters:
        for prompt in prompts:
            with_words(prompt, adapter)
        if adapter is not None:
            check_fits(adapter, model)
    shape = (model.latent_channels, side // model.factor, side // model.factor)
    work = [
        (a, p, k)
        for a in range(len(adapters))
        for p in range(len(prompts))
        for k in range(images_per_prompt)
    ]
    images: list[Tensor] = []
    with tqdm(total=len(work), desc="generating", unit="image", disable=not progress) as bar:
        for start in range(0, len(work), batch_size):
            batch = work[start : start + batch_size]
            used = {a: i for i, a in enumerate(dict.fromkeys(a for a, _, _ in batch))}
            # An adapter that changes layers changes what the empty prompt gives, too.
            changing = {a for a in used if (adapter := adapters[a]) is not None and adapter.deltas}
            blank = {a: a if a in changing else None for a in used}
            texts = [*((blank[a], "") for a in used), *((a, prompts[p]) for a, p, _ in batch)]
            rows = list(dict.fromkeys(texts))
            row = {pair: i for i, pair in enumerate(rows)}
            generators = [stream(seed, "generate", keys[a], p, k) for a, p, k in batch]
            pairs = [
                (None, len(used), text) if a is None else (adapters[a], used[a], text)
                for a, text in rows
            ]
            latents = _denoise(
                model,
                _embed(model, [adapters[a] for a in used], pairs),
                torch.tensor([row[a, prompts[p]] for a, p, _ in batch]),
                torch.tensor([row[blank[a], ""] for a, _, _ in batch]),
                randn(generators, shape),
                generators,
                steps=steps,
                guidance=guidance,
                rescale=guidance_rescale,
                scheduler=scheduler,
                captured=captured,
            )
            images.append(_finish(model, latents))
            bar.update(len(batch))
    return list(torch.cat(images).split(len(prompts) * images_per_prompt)) if work else []


def _rescaled(guided: Latents, prompted: Latents, share: float) -> Latents:
    """Guidance widens the prediction's deviation, which overexposes where no signal is left."""
    if share == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    narrowed = guided * (prompted.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * narrowed + (1 - share) * guided


def _finish(model: Model, latents: Latents) -> UInt8[Tensor, "batch 3 height width"]:
    images = model.decode(latents).float().cpu()
    if not images.isfinite().all():
        raise MadeNaN(
            f"The model {model.name} made NaN; use float32, a lower guidance or another embedding."
        )
    return to_uint8(images)


def preview_writer(
    model: Model, prompts: Sequence[str], folder: Path, *, steps: int = 25
) -> Callable[[int, list[Adapter]], None]:
    """A ``preview`` for ``train``: one row of images a run, in ``folder/step-<steps done>.png``.

    The row of a run whose images became NaN is black; the training goes on.
    """

    def rows(adapters: Sequence[Adapter]) -> list[Tensor]:
        try:
            return generate(model, adapters, prompts, seed=0, steps=steps, progress=False)
        except MadeNaN:
            if len(adapters) > 1:
                return [row for each in adapters for row in rows([each])]
            side = model.image_size
            return [torch.zeros(len(prompts), 3, side, side, dtype=torch.uint8)]

    def preview(step: int, adapters: list[Adapter]) -> None:
        sheet = torch.cat([torch.cat(list(row), dim=-1) for row in rows(adapters)], dim=-2)
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"step-{step:06d}.png", sheet)

    return preview
