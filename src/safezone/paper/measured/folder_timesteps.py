"""Loss, prediction and gradient by timestep of a folder's images, under several noises."""

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from safezone.analysis.latents import posterior_of
from safezone.analysis.timesteps import embedding_gradients, noise_statistics
from safezone.arrays import Timesteps
from safezone.concepts import Concept
from safezone.models.base import Model
from safezone.personalize import Adapter


def folder_statistics(
    model: Model,
    concept: Concept,
    prompt: str,
    adapter: Adapter | None,
    timesteps: Timesteps,
    *,
    draws: int,
    seed: int,
    progress: bool = True,
) -> dict[str, Float[Tensor, "samples timesteps"]]:
    """``loss`` and ``prediction_norm``, with an adapter ``gradient``, [images x draws, timesteps].

    Also ``mean`` and ``std``, the posteriors [images, ...]. ``prompt``: the same for every image,
    with the adapter's placeholder where there is one. Draw k of an image has a noise of its own,
    the same for equally named images of other folders.
    """
    posterior = posterior_of(model, concept.images)
    prompts = [prompt] * len(concept.images)
    if adapter is None:
        tokens, vectors, given = model.tokenize(prompts), None, None
    else:
        vectors = adapter.vectors.to(model.device)
        tokens = model.tokenize(prompts, adapter.placeholder, len(vectors))
        given = vectors.expand(len(prompts), -1, -1)
    with torch.no_grad():
        conditioning = model.embed_text(tokens, given)
    parts: dict[str, list[Tensor]] = {}
    for k in tqdm(range(draws), desc="noises", disable=not progress):
        names = [f"{name}/{k}" for name in concept.image_names]
        found = noise_statistics(model, posterior, conditioning, timesteps, names, seed=seed)
        if vectors is not None:
            found["gradient"] = embedding_gradients(
                model, posterior, tokens, vectors, timesteps, names, seed=seed
            )
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    joined = {name: torch.cat(values) for name, values in parts.items()}
    return {**joined, "mean": posterior.mean, "std": posterior.std}
