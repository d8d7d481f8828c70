"""Stable Diffusion 1.x and 2.x, and everything built like them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.arrays import Images, Latents, Timesteps
from safezone.errors import UserError
from safezone.models.attention import AttentionRecord, record_cross_attention
from safezone.models.base import Conditioning, Posterior, Tokens
from safezone.models.deltas import Changes, changed, checkpointing, watch
from safezone.models.process import Process
from safezone.models.schedulers import make_scheduler

# What replaces the lookup's output, in the thread that is embedding text just now.
_REPLACE: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("replace", default=None)


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
    ) -> None:
        for module in (unet, vae, text_encoder):
            module.requires_grad_(False).eval().to(device)
        # Saves the VAE a sixth of its time on a CPU; the U-Net at latent size gains nothing.
        vae.to(memory_format=torch.channels_last)
        self.name = name
        self.folder = folder
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.process = process
        self.device = device
        self.dtype: torch.dtype = unet.dtype
        self.factor = int(2 ** (len(vae.config.block_out_channels) - 1))
        self.latent_channels = int(vae.config.latent_channels)
        self.image_size = int(unet.config.sample_size) * self.factor
        self._scheduler_config = dict(scheduler_config)
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        self._lookup: torch.nn.Embedding = text_encoder.get_input_embeddings()
        self._lookup.register_forward_hook(_inject)
        self.layers: Mapping[str, tuple[int, int]] = watch("unet", unet) | watch(
            "text_encoder", flat(text_encoder)
        )
        self.embedding_width = int(self._lookup.embedding_dim)
        # A tokenizer whose files name no length claims 1e30.
        self.length = min(
            int(tokenizer.model_max_length), int(text_encoder.config.max_position_embeddings)
        )
        self._slot_id = _ordinary_id(tokenizer)

    def encode(self, images: Images) -> Posterior:
        """The posterior over scaled latents; differentiable in ``images``."""
        pixels = (images * 2 - 1).to(self.device, self.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        mean = (posterior.mean - self._shift) * self._scale
        return Posterior(mean.to(images.dtype), (posterior.std * self._scale).to(images.dtype))

    def decode(self, latents: Latents) -> Images:
        """Images of scaled latents, about [0, 1] but not clamped; differentiable."""
        unscaled = latents.to(self.device, self.dtype) / self._scale + self._shift
        pixels: Tensor = self.vae.decode(unscaled).sample
        return (pixels / 2 + 0.5).to(latents.dtype)

    def tokenize(
        self, prompts: Sequence[str], placeholder: str | None = None, vectors: int = 1
    ) -> Tokens:
        """Token ids as the stock pipeline makes them, ``placeholder`` standing for slots.

        A prompt longer than the model's length loses its end, as in the stock pipeline. Raises
        UserError when that would cut off a slot, and for an empty placeholder.
        """
        if placeholder is not None and not placeholder.strip():
            raise UserError("the placeholder is empty; give it a name such as <concept>")
        if vectors < 1:
            raise UserError(f"a placeholder needs at least 1 vector, not {vectors}")
        rows = [self._tokenize_one(prompt, placeholder, vectors) for prompt in prompts]
        shape = (len(rows), self.length)
        return Tokens(
            torch.tensor([ids for ids, _ in rows], dtype=torch.int64).view(shape),
            torch.tensor([slots for _, slots in rows], dtype=torch.int64).view(shape),
        )

    def _tokenize_one(
        self, prompt: str, placeholder: str | None, vectors: int
    ) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        slots: list[int] = []
        for i, text in enumerate([prompt] if placeholder is None else prompt.split(placeholder)):
            if i > 0:
                ids += [self._slot_id] * vectors
                slots += range(vectors)
            words = self._word_ids(text)
            ids += words
            slots += [-1] * len(words)
        room = self.length - 2  # the start and the end token stay
        if any(slot >= 0 for slot in slots[room:]):
            raise UserError(
                f"the prompt {prompt!r} is too long: {placeholder} with {vectors} vectors "
                f"has to lie within the first {room} tokens"
            )
        padding = self.length - 2 - len(ids[:room])
        start, end, pad = (
            self.tokenizer.bos_token_id,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
        )
        return (
            [start, *ids[:room], end, *[pad] * padding],
            [-1, *slots[:room], -1, *[-1] * padding],
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
        ids, slots = tokens.ids.to(self.device), tokens.slots.to(self.device)
        needed = int(slots.max()) + 1 if slots.numel() else 0
        if needed == 0:
            with changed(changes):
                hidden = self.text_encoder(ids).last_hidden_state
            return Conditioning(hidden, changes=changes)
        expected = (len(ids), self.embedding_width)
        if vectors is None:
            raise ValueError("the tokens have slots for learned vectors, but no vectors were given")
        if vectors.ndim != 3 or (len(vectors), vectors.shape[2]) != expected:
            raise ValueError(f"vectors {tuple(vectors.shape)} do not fit (batch, width) {expected}")
        if needed > vectors.shape[1]:
            raise ValueError(f"the tokens need {needed} vectors, {vectors.shape[1]} were given")
        reset = _REPLACE.set(_at_slots(slots, vectors.to(self.device)))
        try:
            with changed(changes):
                hidden = self.text_encoder(ids).last_hidden_state
        finally:
            _REPLACE.reset(reset)
        return Conditioning(hidden, changes=changes)

    def word_vectors(self, text: str) -> Float[Tensor, "tokens width"]:
        """The frozen lookup's rows for the tokens of ``text`` (no start, end or padding)."""
        ids = torch.tensor(self._word_ids(text), dtype=torch.int64, device=self.device)
        return self._lookup.weight.detach()[ids].clone()

    def ordinary_tokens(self) -> Int[Tensor, " tokens"]:
        """The ids of all tokens but the special ones, int64 on the CPU."""
        special = set(self.tokenizer.all_special_ids)
        return torch.tensor([i for i in range(len(self.tokenizer)) if i not in special])

    def token_vectors(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The frozen lookup's rows for token ids of any shape."""
        return self._lookup.weight.detach()[ids.to(self.device)].clone()

    def record_attention(self) -> AbstractContextManager[AttentionRecord]:
        """Inside the block, every ``predict`` is recorded: where each token was attended to."""
        return record_cross_attention(self.unet)

    def _word_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def predict(
        self, noisy_latents: Latents, timesteps: Timesteps, conditioning: Conditioning
    ) -> Latents:
        """The U-Net's raw prediction, whose meaning ``process`` knows."""
        added = conditioning.added
        with changed(conditioning.changes):
            prediction: Tensor = self.unet(
                noisy_latents.to(self.device, self.dtype),
                timesteps.to(self.device),
                encoder_hidden_states=conditioning.encoder_hidden_states.to(
                    self.device, self.dtype
                ),
                added_cond_kwargs=None if added is None else dict(added),
            ).sample
        return prediction.to(noisy_latents.dtype)

    def checkpoint_gradients(self, enabled: bool) -> None:
        """Whether the U-Net recomputes its activations in the backward pass instead of keeping
        them: a third more time for a fraction of the memory."""
        if enabled:
            self.unet.enable_gradient_checkpointing(checkpointing)
        else:
            self.unet.disable_gradient_checkpointing()

    def scheduler(self, name: str = "ddim") -> Any:
        """A fresh diffusers scheduler with this model's betas and prediction type.

        ``name``: ddim, ddpm, dpm++, euler or pndm; ddim or euler for a flow model (both are its
        Euler steps). Raises UserError for any other.
        """
        return make_scheduler(name, self._scheduler_config)


def flat(text_encoder: Any) -> Any:
    """The module below which the layers are: CLIPTextModel had one more level before 5.6."""
    return getattr(text_encoder, "text_model", text_encoder)


def _ordinary_id(tokenizer: Any) -> int:
    """A token that no pooling looks for: neither start, end nor padding."""
    special = set(tokenizer.all_special_ids)
    return next(i for i in range(len(tokenizer)) if i not in special)


def _inject(_module: torch.nn.Module, _inputs: Any, looked_up: Tensor) -> Tensor:
    """A forward hook of the lookup: changes nothing unless this thread is placing vectors."""
    replace = _REPLACE.get()
    return looked_up if replace is None else replace(looked_up)


def _at_slots(
    slots: Tensor, vectors: Float[Tensor, "batch vectors width"]
) -> Callable[[Tensor], Tensor]:
    """Puts ``vectors[i, slots[i, j]]`` at [i, j] where that slot is not -1."""
    where = (slots >= 0)[..., None]
    index = slots.clamp(min=0)[..., None].expand(-1, -1, vectors.shape[2])
    values = vectors.gather(1, index)  # [batch, length, width]
    return lambda looked_up: torch.where(where, values.to(looked_up.dtype), looked_up)
