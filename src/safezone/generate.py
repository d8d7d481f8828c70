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
from safezone.personalize.adapters import Adapter
from safezone.personalize.textual_inversion import take


def _fill(prompt: str, adapter: Adapter | None) -> str:
    if "{}" not in prompt:
        return prompt
    if adapter is None:
        raise UserError(
            f"The prompt {prompt!r} has {{}} for a placeholder but there is no adapter; write the "
            "prompt in full or give an adapter."
        )
    return prompt.replace("{}", adapter.placeholder)


def _embed(model: Model, pairs: Sequence[tuple[Adapter | None, str]]) -> Conditioning:
    """The prompts' conditioning below that of the empty prompt (row 0), in one pass."""
    empty = model.tokenize([""])
    parts = [empty]
    most = max([1, *(len(adapter.vectors) for adapter, _ in pairs if adapter is not None)])
    vectors = torch.zeros(len(pairs) + 1, most, model.embedding_width, device=model.device)
    for row, (adapter, prompt) in enumerate(pairs, start=1):
        if adapter is None:
            parts.append(model.tokenize([prompt]))
            continue
        count = len(adapter.vectors)
        parts.append(model.tokenize([_fill(prompt, adapter)], adapter.placeholder, count))
        vectors[row, :count] = adapter.vectors.to(vectors)
    tokens = Tokens(torch.cat([p.ids for p in parts]), torch.cat([p.slots for p in parts]))
    return model.embed_text(tokens, vectors)


def _denoise(
    model: Model,
    conditioning: Conditioning,
    rows: Tensor,
    latents: Latents,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float,
    scheduler: str,
) -> Latents:
    """The sampler's loop; ``rows``: each image's row of the conditioning, 0 the empty prompt's."""
    sampler = model.scheduler(scheduler)
    sampler.set_timesteps(steps, device=model.device)
    takes_generator = "generator" in inspect.signature(sampler.step).parameters
    extra: dict[str, Any] = {"generator": list(generators)} if takes_generator else {}
    guided = guidance != 1.0
    if guided:
        rows = torch.cat([torch.zeros_like(rows), rows])
    conditioning = take(conditioning, rows.to(model.device))
    # Flow-matching samplers start from unit noise and take latents as they are.
    latents = latents.to(model.device) * getattr(sampler, "init_noise_sigma", 1.0)
    scale = getattr(sampler, "scale_model_input", lambda sample, timestep: sample)
    for timestep in sampler.timesteps:
        scaled = scale(latents, timestep)
        if guided:
            scaled = torch.cat([scaled, scaled])
        prediction = model.predict(scaled, timestep.expand(len(scaled)), conditioning)
        if guided:
            without, with_prompt = prediction.chunk(2)
            prediction = without + guidance * (with_prompt - without)
        latents = sampler.step(prediction, timestep, latents, **extra).prev_sample
    return latents


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
    scheduler: str = "ddim",
    batch_size: int = 16,
    size: int | None = None,
    progress: bool = True,
) -> list[UInt8[Tensor, "images 3 height width"]]:
    """For each adapter uint8 [prompts x images_per_prompt, 3, size, size], prompt after prompt.

    ``adapters``: None stands for the plain model, whose prompts must be written in full; elsewhere
    ``{}`` in a prompt is the adapter's placeholder. ``noise_keys``: one for each adapter; image k
    of prompt p starts from the noise that (seed, key, p, k) names, so give adapters that are to
    be compared the same key, such as the concept's name; by default all have the same.
    ``steps``: of ``scheduler``. ``guidance``: classifier-free guidance
    e = e("") + guidance (e(prompt) - e("")) (Ho & Salimans); 1 is none. ``batch_size``: images in
    one pass, of whatever adapters; it does not change the result beyond float tolerance.
    ``size``: the images' side in pixels, by default the model's.

    Raises UserError for values out of range and for images that became NaN.
    """
    for name, value in {
        "images_per_prompt": images_per_prompt,
        "steps": steps,
        "batch_size": batch_size,
    }.items():
        if value < 1:
            raise UserError(f"{name} is {value}; give at least 1.")
    if not (guidance >= 0 and math.isfinite(guidance)):
        raise UserError(f"guidance is {guidance}; give 0 or more.")
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
            _fill(prompt, adapter)
        if adapter is not None and adapter.vectors.shape[1] != model.embedding_width:
            raise UserError(
                f"The embedding {adapter.placeholder} has {adapter.vectors.shape[1]} numbers a "
                f"vector, the model {model.name} {model.embedding_width}; use it with the kind of "
                "model it was trained on."
            )
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
            pairs = list(dict.fromkeys((a, p) for a, p, _ in batch))
            row = {pair: i for i, pair in enumerate(pairs, start=1)}
            generators = [stream(seed, "generate", keys[a], p, k) for a, p, k in batch]
            latents = _denoise(
                model,
                _embed(model, [(adapters[a], prompts[p]) for a, p in pairs]),
                torch.tensor([row[a, p] for a, p, _ in batch]),
                randn(generators, shape),
                generators,
                steps=steps,
                guidance=guidance,
                scheduler=scheduler,
            )
            images.append(_finish(model, latents))
            bar.update(len(batch))
    return list(torch.cat(images).split(len(prompts) * images_per_prompt)) if work else []


def _finish(model: Model, latents: Latents) -> UInt8[Tensor, "batch 3 height width"]:
    images = model.decode(latents).float().cpu()
    if not images.isfinite().all():
        raise UserError(
            f"The model {model.name} made NaN; use float32, a lower guidance or another embedding."
        )
    return to_uint8(images)


def preview_writer(
    model: Model,
    prompts: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 25,
    guidance: float = 5.0,
    batch_size: int = 16,
) -> Callable[[int, list[Adapter]], None]:
    """A ``preview`` for ``train``: one row of images a run, in ``folder/step-<steps done>.png``."""

    def preview(step: int, adapters: list[Adapter]) -> None:
        rows = generate(
            model,
            adapters,
            prompts,
            seed=seed,
            steps=steps,
            guidance=guidance,
            batch_size=batch_size,
            progress=False,
        )
        folder.mkdir(parents=True, exist_ok=True)
        sheet = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
        write_png(folder / f"step-{step:06d}.png", sheet)

    return preview
