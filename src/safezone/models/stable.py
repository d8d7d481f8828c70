"""Stable Diffusion 1.x, 2.x and XL, and everything built like them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.arrays import Images, Latents, Times
from safezone.models.base import BEYOND, AttentionRecord, Conditioning, Posterior, Tokens
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
        return sum(self.embedding_widths)

    def encode(self, images: Images) -> Posterior:
        pixels = (images * 2 - 1).to(self.device, self.vae.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        mean = (posterior.mean - self._shift) * self._scale
        return Posterior(mean.to(images.dtype), (posterior.std * self._scale).to(images.dtype))

    def decode(self, latents: Latents) -> Images:
        unscaled = latents.to(self.device, self.vae.dtype) / self._scale + self._shift
        pixels: Tensor = self.vae.decode(unscaled).sample
        return (pixels / 2 + 0.5).to(latents.dtype)

    def tokenize(
        self, prompts: Sequence[str], placeholder: str | None = None, vectors: int = 1
    ) -> Tokens:
        return self._text.tokenize(prompts, placeholder, vectors)

    def unseen(
        self, prompts: Sequence[str], placeholder: str | None = None, vectors: int = 1
    ) -> dict[str, str]:
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

    def _seen(self, tokens: Tokens) -> Tensor | None:
        """Where a row of several chunks has a prompt; None for rows of one, which all have."""
        several = tokens.slots.shape[1] > self.length
        return tokens.slots.to(self.device) != BEYOND if several else None

    def embed_text(
        self,
        tokens: Tokens,
        vectors: Float[Tensor, "batch vectors width"] | None = None,
        changes: Changes | None = None,
    ) -> Conditioning:
        """The text encoder's last hidden states, after its final layer norm."""
        ids, slots, placed, held = self._in_chunks(tokens, vectors, changes)
        with self._slot.holding(held):
            hidden = self._text.run(ids, slots, placed).last_hidden_state
        states = hidden.reshape(*tokens.ids.shape, -1)
        return Conditioning(states, changes=changes, seen=self._seen(tokens))

    def word_vectors(self, text: str) -> Float[Tensor, "tokens width"]:
        return self.token_vectors(torch.tensor(self._text.word_ids(text), dtype=torch.int64))

    def ordinary_tokens(self) -> Int[Tensor, " tokens"]:
        return torch.tensor(self._text.ordinary)

    def token_vectors(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        return self._text.rows(ids)

    def record_attention(self) -> AbstractContextManager[AttentionRecord]:
        return record_cross_attention(self.unet)

    def predict(
        self, noisy_latents: Latents, timesteps: Times, conditioning: Conditioning
    ) -> Latents:
        kind, added = (self.device, self.dtype), conditioning.added
        added = added and {name: value.to(*kind) for name, value in added.items()}
        with self._slot.holding(conditioning.changes):
            prediction: Tensor = self.unet(
                noisy_latents.to(*kind),
                self.process.network_time(timesteps.to(self.device)),
                encoder_hidden_states=conditioning.encoder_hidden_states.to(*kind),
                added_cond_kwargs=added,
                encoder_attention_mask=conditioning.seen,
            ).sample
        return prediction.to(noisy_latents.dtype)

    @contextmanager
    def checkpointed(self, enabled: bool) -> Iterator[None]:
        if enabled:
            self.unet.enable_gradient_checkpointing(self._slot.checkpointing)
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()

    def scheduler(self, name: str = "ddim") -> Any:
        return make_scheduler(name, self._scheduler_config)

    def fingerprint(self) -> str:
        return fingerprint(self)


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
        return Conditioning(hidden, added, changes, self._seen(tokens))

    def token_vectors(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        return torch.cat([self._text.rows(ids), self._text_2.rows(ids)], dim=-1)


@contextmanager
def record_cross_attention(unet: Any) -> Iterator[AttentionRecord]:
    """Records every cross-attention of a diffusers U-Net while the block runs.

    Queries and keys are computed a second time, so the pass itself is the same to the bit. For
    square latents. Raises ValueError for a U-Net without cross-attention.
    """
    record = AttentionRecord()
    layers = [m for name, m in unet.named_modules() if name.endswith("attn2")]
    if not layers:
        raise ValueError("this U-Net has no cross-attention")

    def watch(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        context = named.get("encoder_hidden_states")
        if context is not None:
            record.layers.append(_shares(layer, inputs[0], context, named.get("attention_mask")))

    handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _shares(
    layer: Any, hidden: Tensor, context: Tensor, mask: Tensor | None
) -> Float[Tensor, "batch length h w"]:
    """softmax(Q K^T / sqrt(d)) of one layer, averaged over its heads."""
    if layer.norm_cross:
        context = layer.norm_encoder_hidden_states(context)
    query = layer.head_to_batch_dim(layer.to_q(hidden))
    key = layer.head_to_batch_dim(layer.to_k(context))
    batch, cells = hidden.shape[:2]
    mask = layer.prepare_attention_mask(mask, key.shape[1], batch)
    scores = layer.get_attention_scores(query, key, mask).float()  # [batch x heads, cells, length]
    side = math.isqrt(cells)
    mean = scores.view(batch, -1, cells, scores.shape[-1]).mean(dim=1)  # [batch, cells, length]
    shares: Tensor = mean.transpose(1, 2).reshape(batch, -1, side, side)
    return shares
