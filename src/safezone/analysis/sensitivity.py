"""Where in the image a word acts: semantic sensitivity maps and cross-attention maps.

Figures 2, 3, 9 and 16; Eq. 6 and 16.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from safezone.arrays import Latents, Timesteps
from safezone.errors import UserError
from safezone.models.base import Model, Tokens
from safezone.models.denoise import predict

START: Final = "<start>"
"""Stands for the start token, which no text has a word for."""

_MARK: Final = "\ue000"
"""Stands where a word was found; a character that Unicode leaves to private use."""


@dataclass(frozen=True, eq=False)
class Slots:
    """One prompt whose word was made a slot. ``tokens``: one row; ``vectors``: [k, width]."""

    tokens: Tokens
    vectors: Float[Tensor, "k width"]

    @property
    def present(self) -> bool:
        """Whether the word is in the prompt at all."""
        return bool((self.tokens.slots >= 0).any())


class Sensitivity(NamedTuple):
    """``maps``: sums of squares over the channels, means over random rows of the vocabulary.

    ``standard_error``: of these means, the deviation over the rows / sqrt(rows).
    """

    maps: Float[Tensor, "n h w"]
    standard_error: Float[Tensor, "n h w"]


def word_slots(
    model: Model,
    prompt: str,
    word: str,
    vectors: Float[Tensor, "k width"] | None = None,
) -> Slots:
    """The prompt with the tokens of ``word``, as often as it stands there, made slots.

    ``vectors``: those of a learned word, whose placeholder ``word`` is; by default the frozen
    lookup's rows of the word itself, which is found as a whole word in any case, as the tokenizer
    sees it: "cat" is not in "cathedral". ``<start>`` is the start token. A word that the prompt
    does not hold leaves no slots. Raises UserError for a word without tokens.
    """
    if word == START:
        tokens = model.tokenize([prompt])
        slots = torch.full_like(tokens.ids, -1)
        slots[:, 0] = 0
        return Slots(Tokens(tokens.ids, slots), model.token_vectors(tokens.ids[0, :1]).float())
    rows = model.word_vectors(word).float() if vectors is None else vectors.float()
    if not len(rows):
        raise UserError(f"the word {word!r} has no tokens; give a word of the prompt")
    if vectors is None:
        whole = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
        prompt, word = re.sub(whole, _MARK, prompt, flags=re.IGNORECASE), _MARK
    return Slots(model.tokenize([prompt], word, len(rows)), rows.to(model.device))


def random_rows(
    model: Model, count: int, vectors: int, generator: torch.Generator
) -> Float[Tensor, "count vectors width"]:
    """Rows of the vocabulary drawn alike and with replacement; no special, no learned token."""
    if count < 2:
        raise UserError(f"rows is {count}; give at least 2, so that the error can be told")
    ids = model.ordinary_tokens()
    chosen = ids[torch.randint(len(ids), (count, vectors), generator=generator)]
    return model.token_vectors(chosen).float()


@torch.no_grad()
def semantic_sensitivity(
    model: Model,
    slots: Slots,
    latents: Latents,
    noise: Latents,
    timesteps: Timesteps,
    replacements: Float[Tensor, "rows k width"],
    *,
    batch_size: int = 64,
) -> Sensitivity:
    """SSM = E |eps(z_t, t, c) - eps(z_t, t, c')|^2 over channels, c' with other vectors (Eq. 6).

    ``latents``, ``noise``, ``timesteps``: of n maps. All k vectors of the word are replaced at
    once, each by a row of its own; both branches see the same z_t. The prediction is turned into
    noise first where it is of another kind. float32 on the CPU. Zero where the word is not in the
    prompt. The text encoder is causal and pads: what a replaced word changes in later tokens and
    in the padding counts as the word's own.
    """
    rows = len(replacements)
    vectors = torch.cat([slots.vectors[None].to(replacements), replacements])  # [1 + rows, k, w]
    index = torch.zeros(rows + 1, dtype=torch.int64)
    conditioning = model.embed_text(slots.tokens[index], vectors)
    order = torch.arange(rows + 1, device=model.device).split(batch_size)
    maps, errors = [], []
    latents, noise, times = (x.to(model.device) for x in (latents, noise, timesteps))
    for n in range(len(latents)):
        parts = []
        for which in order:
            one = torch.full_like(which, n)
            prediction = predict(model, latents[one], noise[one], times[one], conditioning[which])
            parts.append(prediction.predicted_noise.float().cpu())
        predicted = torch.cat(parts)
        squares = (predicted[1:] - predicted[:1]).square().sum(dim=1)  # [rows, h, w]
        maps.append(squares.mean(dim=0))
        errors.append(squares.std(dim=0) / rows**0.5)
    return Sensitivity(torch.stack(maps), torch.stack(errors))


@torch.no_grad()
def cross_attention_maps(
    model: Model, slots: Slots, latents: Latents, noise: Latents, timesteps: Timesteps
) -> Float[Tensor, "n h w"]:
    """The share of attention that the word's tokens get, summed, mean over heads and layers.

    One map a latent, at latent size, in [0, 1]; float32 on the CPU.
    """
    rows = torch.zeros(len(latents), dtype=torch.int64)
    conditioning = model.embed_text(
        slots.tokens[rows], slots.vectors.expand(len(latents), -1, -1).to(model.device)
    )
    latents, noise, times = (x.to(model.device) for x in (latents, noise, timesteps))
    with model.record_attention() as record:
        predict(model, latents, noise, times, conditioning)
    where = (slots.tokens.slots[0] >= 0).to(model.device)
    return record.maps(latents.shape[-1])[:, where].sum(dim=1).float().cpu()


def in_region_ratio(
    maps: Float[Tensor, "n h w"], masks: Float[Tensor, "n h w"]
) -> Float[Tensor, " n"]:
    """R: the share of a map's sum that lies inside its mask, in [0, 1]; NaN for a map of zeros.

    ``masks``: 1 inside, 0 outside, at latent size (Eq. 16). A map alike everywhere has the mask's
    share of the area.
    """
    return (maps * masks).flatten(1).sum(dim=1) / maps.flatten(1).sum(dim=1)
