"""Stable Diffusion XL: two text encoders, and sizes beside the timestep."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.models.base import Conditioning, Tokens
from safezone.models.deltas import Changes, watch
from safezone.models.frozen import freeze
from safezone.models.stable import StableDiffusion
from safezone.models.text import TextEncoder


class StableDiffusionXL(StableDiffusion):
    """Token vectors are those of both lookups side by side, [n, 768 + 1280] for SDXL.

    ``text_encoder_2``: a CLIPTextModelWithProjection. ``zero_empty``: the empty prompt is zeros, as
    the stock pipeline has it when its model_index.json says so. The U-Net is always told that the
    image was ``image_size`` large and not cropped.
    """

    def __init__(
        self, *, text_encoder_2: Any, tokenizer_2: Any, zero_empty: bool, **parts: Any
    ) -> None:
        super().__init__(**parts)
        freeze(text_encoder_2.to(self.device))
        self.text_encoder_2 = text_encoder_2
        self.tokenizer_2 = tokenizer_2
        self._text_2 = TextEncoder(text_encoder_2, tokenizer_2, self._text.chunked)
        self._zero_empty = zero_empty
        self.layers = {**self.layers, **watch("text_encoder_2", self._text_2.layers, self._slot)}
        self.embedding_widths = (self._text.width, self._text_2.width)
        size = self.image_size
        self._time_ids = torch.tensor([[size, size, 0, 0, size, size]], device=self.device)

    def embed_text(
        self,
        tokens: Tokens,
        vectors: Float[Tensor, "batch vectors width"] | None = None,
        changes: Changes | None = None,
    ) -> Conditioning:
        """The last hidden states but one of both encoders, side by side; added: the second one's
        pooled embedding and the six time ids. Otherwise as ``StableDiffusion.embed_text``."""
        ids, slots, placed, held = self._in_chunks(tokens, vectors, changes)
        parts = (None, None) if placed is None else placed.split(self.embedding_widths, dim=2)
        with self._slot.holding(held):
            first = self._text.run(ids, slots, parts[0], output_hidden_states=True)
            second = self._text_2.run(
                self._text_2.padded_alike(ids), slots, parts[1], output_hidden_states=True
            )
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        hidden = hidden.reshape(*tokens.ids.shape, -1)
        chunks = tokens.ids.shape[1] // self.length
        pooled = second.text_embeds[::chunks]  # of the first chunk, as other programs have it
        if self._zero_empty:
            empty = (ids[::chunks, 1] == self.tokenizer.eos_token_id)[:, None]
            hidden = hidden.masked_fill(empty[..., None], 0)
            pooled = pooled.masked_fill(empty, 0)
        time_ids = self._time_ids.expand(len(pooled), -1).to(pooled)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return Conditioning(hidden, added, changes)

    def word_vectors(self, text: str) -> Float[Tensor, "tokens width"]:
        """Both frozen lookups' rows for the tokens of ``text``, side by side."""
        return self.token_vectors(torch.tensor(self._text.word_ids(text), dtype=torch.int64))

    def token_vectors(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """Both frozen lookups' rows for token ids of any shape, side by side."""
        return torch.cat([self._text.rows(ids), self._text_2.rows(ids)], dim=-1)
