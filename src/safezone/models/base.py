"""The protocol behind which every latent diffusion model stands."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from safezone.arrays import Images, Latents, Times
from safezone.models.deltas import Changes
from safezone.models.process import Process


@dataclass(frozen=True)
class Posterior:
    """The encoder's Gaussian over latents, already scaled: z = mean + std * n.

    ``mean`` and ``std``: [batch, channels, height / f, width / f].
    """

    mean: Latents
    std: Latents

    def sample(self, noise: Latents) -> Latents:
        """A latent for given standard normal noise of the mean's shape."""
        return self.mean + self.std * noise


BEYOND: Final = -2
"""The slot of all tokens in chunks beyond a prompt's last one, which only fill up its row."""


@dataclass(frozen=True)
class Tokens:
    """Tokenised prompts with the places where learned vectors go.

    ``ids``: int64 [batch, length]. ``slots``: int64 [batch, length], -1 at ordinary tokens, k
    where vector k of the placeholder belongs, ``BEYOND`` where nothing is. ``vectors``: how many
    the slots name at most; None is found by looking, which waits for the device.
    """

    ids: Int[Tensor, "batch length"]
    slots: Int[Tensor, "batch length"]
    vectors: int | None = None

    def __getitem__(self, rows: Tensor | slice) -> "Tokens":
        return Tokens(self.ids[rows], self.slots[rows], self.vectors)

    @staticmethod
    def joined(parts: Sequence["Tokens"], empty: "Tokens") -> "Tokens":
        """All rows; shorter ones are filled up with chunks of ``empty``, the empty prompt's tokens,
        to which nothing attends."""
        longest = max(part.ids.shape[1] for part in parts)
        width = empty.ids.shape[1]

        def widened(part: Tensor, blank: Tensor) -> Tensor:
            more = (longest - part.shape[1]) // width
            return torch.cat([part, *[blank.expand(len(part), -1)] * more], dim=1)

        return Tokens(
            torch.cat([widened(part.ids, empty.ids) for part in parts]),
            torch.cat([widened(p.slots, torch.full_like(empty.slots, BEYOND)) for p in parts]),
        )


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net attends to, and what it gets beside the timestep.

    ``encoder_hidden_states``: [batch, length, width]. ``added``: further keyword tensors of the
    U-Net (SDXL's pooled text embedding and time ids), each with a leading batch axis.
    ``changes``: of the U-Net's layers, row by row; None leaves them as they are. ``seen``: the
    tokens that there are to attend to; None for all.
    """

    encoder_hidden_states: Float[Tensor, "batch length width"]
    added: Mapping[str, Tensor] | None = None
    changes: Changes | None = None
    seen: Bool[Tensor, "batch length"] | None = None

    def __getitem__(self, rows: Tensor) -> "Conditioning":
        """The given rows, repeated as often as they are named; differentiable."""
        return Conditioning(
            self.encoder_hidden_states[rows],
            self.added and {name: value[rows] for name, value in self.added.items()},
            self.changes and self.changes[rows],
            None if self.seen is None else self.seen[rows],
        )


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """What one pass has attended to. ``layers``: [batch, length, h, w] each, means over heads."""

    layers: list[Float[Tensor, "batch length h w"]] = field(default_factory=list)

    def maps(self, size: int) -> Float[Tensor, "batch length size size"]:
        """The mean over layers, each brought to ``size`` cells a side (bilinear).

        At every cell the tokens' shares sum to 1. Raises ValueError when nothing was recorded, or
        more than one batch size.
        """
        if not self.layers or len({len(layer) for layer in self.layers}) != 1:
            raise ValueError("record one pass before asking for its maps")
        resized = [
            functional.interpolate(layer, (size, size), mode="bilinear", align_corners=False)
            for layer in self.layers
        ]
        return torch.stack(resized).mean(dim=0)


class Model(Protocol):
    """A frozen latent diffusion model: encode, decode, embed text, predict.

    Images are float in [0, 1], [batch, 3, height, width], height and width multiples of
    ``factor``. All parameters have ``requires_grad`` off and modules are in eval mode; gradients
    flow to inputs.
    """

    name: str
    process: Process
    image_size: int
    """Side, in pixels, of the square images the model was trained on."""
    factor: int
    """Pixels per latent cell along one side (8 for Stable Diffusion)."""
    latent_channels: int
    embedding_widths: tuple[int, ...]
    """Width of one token vector in each text encoder's lookup: one, or two for SDXL."""
    layers: Mapping[str, tuple[int, int]]
    """(outputs, inputs) of the layers that changes may name, such as
    ``unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k`` or
    ``text_encoder.encoder.layers.0.self_attn.q_proj``."""
    convolutions: frozenset[str]
    """Which of ``layers`` are 1 x 1 convolutions; the others are linear."""
    device: torch.device
    dtype: torch.dtype
    """Of the weights and of what is computed with them; latents and images stay float32."""
    precision: str
    """``dtype`` in words, and whether float32 is multiplied in TF32."""
    folder: Path | str
    """Where it was loaded from (a diffusers folder or a hub name)."""

    @property
    def embedding_width(self) -> int:
        """Width of one token vector, of all text encoders together."""

    def encode(self, images: Images) -> Posterior:
        """The posterior over scaled latents; differentiable in ``images``."""

    def decode(self, latents: Latents) -> Images:
        """Images of scaled latents, about [0, 1] but not clamped; differentiable."""

    def tokenize(
        self, prompts: Sequence[str], placeholder: str | None = None, vectors: int = 1
    ) -> Tokens:
        """Token ids, padded to the model's length, ``placeholder`` standing for ``vectors`` slots.

        The placeholder never has to be a word of the tokenizer; the prompt is split around it
        where it stands as a whole word. A prompt that is too long loses its end, with a warning, or
        has a multiple of the length where the model was loaded with ``long_prompts="chunks"``.
        Raises UserError when a slot would be cut off, and for an empty placeholder.
        """

    def unseen(
        self, prompts: Sequence[str], placeholder: str | None = None, vectors: int = 1
    ) -> dict[str, str]:
        """Of each prompt that is too long: the end of it that the text encoder does not see."""

    def embed_text(
        self,
        tokens: Tokens,
        vectors: Float[Tensor, "batch vectors width"] | None = None,
        changes: Changes | None = None,
    ) -> Conditioning:
        """Runs the text encoder; ``vectors[i, k]`` replaces the lookup where ``slots[i] == k``.

        ``changes``: of the layers of the text encoder and the U-Net, one row for each prompt; the
        result carries them on to ``predict``. Differentiable in ``vectors`` and the changes.
        Raises ValueError when slots are used and too few vectors given.
        """

    def word_vectors(self, text: str) -> Float[Tensor, "tokens width"]:
        """The frozen lookup's rows for the tokens of ``text`` (no start, end or padding)."""

    def ordinary_tokens(self) -> Int[Tensor, " tokens"]:
        """The ids of all tokens but the special ones, int64 on the CPU."""

    def token_vectors(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The frozen lookup's rows for token ids of any shape."""

    def record_attention(self) -> AbstractContextManager[AttentionRecord]:
        """Inside the block, every ``predict`` is recorded: where each token was attended to."""

    def checkpointed(self, enabled: bool) -> AbstractContextManager[None]:
        """Within the block, if enabled, the U-Net recomputes its activations in the backward pass
        instead of keeping them: a third more time for a fraction of the memory."""

    def predict(
        self, noisy_latents: Latents, timesteps: Times, conditioning: Conditioning
    ) -> Latents:
        """The U-Net's raw prediction, whose meaning ``process`` knows; differentiable.

        ``timesteps``: [batch], of ``process``, whole or in between; the U-Net is told
        ``process.network_time`` of them.
        """

    def scheduler(self, name: str = "ddim") -> Any:
        """A fresh diffusers scheduler with this model's betas and prediction type.

        ``name``: ddim, ddpm, dpm++, euler, and pndm but for betas of zero terminal SNR; ddim or
        euler for a flow model (both are its Euler steps). Raises UserError for any other.
        """

    def fingerprint(self) -> str:
        """A hash of all that the results depend on: weights, tokenizers, process, configurations.

        ``models.fingerprint.fingerprint(self)`` gives it for any class.
        """
