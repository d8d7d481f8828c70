"""Stable Diffusion 1.x and 2.x, and everything built like them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.arrays import Images, Latents, Times
from safezone.models.attention import AttentionRecord, record_cross_attention
from safezone.models.base import Conditioning, Posterior, Tokens
from safezone.models.deltas import Changes, LayerSlot, convolutions, watch
from safezone.models.fingerprint import fingerprint
from safezone.models.frozen import freeze
from safezone.models.process import Process
from safezone.models.schedulers import make_scheduler
from safezone.models.text import TextEncoder, check_vectors


class StableDiffusion:
    """A frozen latent diffusion model with one CLIP text encoder; see ``base.Model``.

    ``unet``, ``vae``, ``text_encoder`` and ``tokenizer`` are the stock diffusers and transformers
    objects and stay usable in a stock pipeline. Computes in the modules' dtype and returns
    latents, images and gradients in the dtype of its inputs.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path | str,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        process: Process,
        scheduler_config: Mapping[str, Any],
        device: torch.device,
        chunked: bool = False,
    ) -> None:
        for module in (unet, vae, text_encoder):
            freeze(module.to(device))
        # On a CPU this saves the VAE a sixth of its time, the built-in U-Net a fifteenth.
        for module in (unet, vae):
            module.to(memory_format=torch.channels_last)
        self.name = name
        self.folder = folder
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.process = process
        self.device = device
        self.dtype: torch.dtype = unet.dtype
        self.precision = str(unet.dtype).removeprefix("torch.")
        self.factor = int(2 ** (len(vae.config.block_out_channels) - 1))
        self.latent_channels = int(vae.config.latent_channels)
        self.image_size = int(unet.config.sample_size) * self.factor
        self._scheduler_config = dict(scheduler_config)
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        self._text = TextEncoder(text_encoder, tokenizer, chunked)
        self._lookup = self._text.lookup
        self._slot = LayerSlot()
        self.layers: Mapping[str, tuple[int, int]] = {
            **watch("unet", unet, self._slot),
            **watch("text_encoder", self._text.layers, self._slot),
        }
        self.convolutions = convolutions("unet", unet)
        self.embedding_widths: tuple[int, ...] = (self._text.width,)
        self.length = self._text.length

    @property
    def embedding_width(self) -> int:
        """Width of one token vector, of all text encoders together."""
        return sum(self.embedding_widths)

    def encode(self, images: Images) -> Posterior:
        """The posterior over scaled latents; differentiable in ``images``."""
        pixels = (images * 2 - 1).to(self.device, self.vae.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        mean = (posterior.mean - self._shift) * self._scale
        return Posterior(mean.to(images.dtype), (posterior.std * self._scale).to(images.dtype))

    def decode(self, latents: Latents) -> Images:
        """Images of scaled latents, about [0, 1] but not clamped; differentiable."""
        unscaled = latents.to(self.device, self.vae.dtype) / self._scale + self._shift
        pixels: Tensor = self.vae.decode(unscaled).sample
        return (pixels / 2 + 0.5).to(latents.dtype)

    def tokenize(
        self, prompts: Sequence[str], placeholder: str | None = None, vectors: int = 1
    ) -> Tokens:
        """Token ids as the stock pipeline makes them, ``placeholder`` standing for slots.

        A prompt longer than the model's length loses its end, as in the stock pipeline, with a
        warning; or is encoded in chunks of 75 tokens. Raises UserError when that would cut off a
        slot, and for an empty placeholder.
        """
        return self._text.tokenize(prompts, placeholder, vectors)

    def unseen(
        self, prompts: Sequence[str], placeholder: str | None = None, vectors: int = 1
    ) -> dict[str, str]:
        """Of each prompt that is too long: the end of it that the text encoder does not see."""
        return self._text.unseen(prompts, placeholder, vectors)

    def _in_chunks(
        self, tokens: Tokens, vectors: Tensor | None, changes: Changes | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Changes | None]:
        """Ids, slots, vectors and changes with one row for each chunk, on the model's device."""
        needed = check_vectors(tokens, vectors, self.embedding_width)
        placed = None if needed is None else needed.to(self.device)
        ids, slots = (
            each.to(self.device).reshape(-1, self.length) for each in (tokens.ids, tokens.slots)
        )
        if (count := tokens.ids.shape[1] // self.length) == 1:
            return ids, slots, placed, changes
        rows = torch.arange(len(ids), device=self.device) // count
        return (
            ids,
            slots,
            None if placed is None else placed[rows],
            None if changes is None else changes[rows.to(changes.owners.device)],
        )

    def embed_text(
        self,
        tokens: Tokens,
        vectors: Float[Tensor, "batch vectors width"] | None = None,
        changes: Changes | None = None,
    ) -> Conditioning:
        """The text encoder's last hidden states, after its final layer norm.

        ``vectors[i, k]`` replaces the lookup where ``tokens.slots[i] == k``; differentiable in
        ``vectors``, and in ``changes``, which the result carries on. Raises ValueError when slots
        are used and too few vectors given.
        """
        ids, slots, placed, held = self._in_chunks(tokens, vectors, changes)
        with self._slot.holding(held):
            hidden = self._text.run(ids, slots, placed).last_hidden_state
        return Conditioning(hidden.reshape(*tokens.ids.shape, -1), changes=changes)

    def word_vectors(self, text: str) -> Float[Tensor, "tokens width"]:
        """The frozen lookup's rows for the tokens of ``text`` (no start, end or padding)."""
        return self.token_vectors(torch.tensor(self._text.word_ids(text), dtype=torch.int64))

    def ordinary_tokens(self) -> Int[Tensor, " tokens"]:
        """The ids of all tokens but the special ones, int64 on the CPU."""
        return torch.tensor(self._text.ordinary)

    def token_vectors(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The frozen lookup's rows for token ids of any shape."""
        return self._text.rows(ids)

    def record_attention(self) -> AbstractContextManager[AttentionRecord]:
        """Inside the block, every ``predict`` is recorded: where each token was attended to."""
        return record_cross_attention(self.unet)

    def predict(
        self, noisy_latents: Latents, timesteps: Times, conditioning: Conditioning
    ) -> Latents:
        """The U-Net's raw prediction, whose meaning ``process`` knows."""
        added = conditioning.added
        kwargs = (
            None
            if added is None
            else {name: value.to(self.device, self.dtype) for name, value in added.items()}
        )
        with self._slot.holding(conditioning.changes):
            prediction: Tensor = self.unet(
                noisy_latents.to(self.device, self.dtype),
                self.process.network_time(timesteps.to(self.device)),
                encoder_hidden_states=conditioning.encoder_hidden_states.to(
                    self.device, self.dtype
                ),
                added_cond_kwargs=kwargs,
            ).sample
        return prediction.to(noisy_latents.dtype)

    @contextmanager
    def checkpointed(self, enabled: bool) -> Iterator[None]:
        """Within the block, if enabled, the U-Net recomputes its activations in the backward pass
        instead of keeping them: a third more time for a fraction of the memory."""
        if enabled:
            self.unet.enable_gradient_checkpointing(self._slot.checkpointing)
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()

    def scheduler(self, name: str = "ddim") -> Any:
        """A fresh diffusers scheduler with this model's betas and prediction type.

        ``name``: ddim, ddpm, dpm++, euler or pndm; ddim or euler for a flow model (both are its
        Euler steps). Raises UserError for any other.
        """
        return make_scheduler(name, self._scheduler_config)

    def fingerprint(self) -> str:
        """A hash of all weights, tokenizers and configurations."""
        return fingerprint(self)
