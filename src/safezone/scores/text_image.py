"""Encoders of images and texts, and what they measure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from safezone.errors import UserError
from safezone.models.fingerprint import fingerprint
from safezone.models.text import TextEncoder, around
from safezone.scores.encoders import Pictures, Preprocessing, Score, in_batches
from safezone.scores.metrics import clip_score, cosine_similarity


@dataclass(frozen=True, eq=False)
class ClipEncoder:
    """A CLIP model (Radford et al. 2021) as a text-image encoder, and as an image encoder."""

    name: str
    model: Any  # transformers.CLIPModel
    tokenizer: Any  # transformers.CLIPTokenizer
    preprocessing: Preprocessing
    device: torch.device

    @torch.no_grad()
    def image_features(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
        """float32 [n, width] on the CPU, not normalised, of uint8 images [n, 3, h, w]."""

        def encode(batch: Tensor) -> Tensor:
            pixels = self.preprocessing(batch.to(self.device))
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            return cast(Tensor, self.model.visual_projection(pooled))

        return in_batches(images, encode)

    features = image_features

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """float32 [n, width] on the CPU, not normalised; texts longer than the model's are cut."""
        distinct = list(dict.fromkeys(texts))
        tokens = self.tokenizer(
            distinct,
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        output = self.model.text_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        rows = self.model.text_projection(output.pooler_output).float().cpu()
        return cast(Tensor, rows[[distinct.index(text) for text in texts]])

    def fingerprint(self) -> str:
        return fingerprint(self)


@dataclass(frozen=True, eq=False)
class LearnedTokenEncoder:
    """A CLIP whose text encoder is the personalized model's own: it reads the learned token.

    ``text``: the CLIP's text encoder, whose lookup takes vectors in the placeholder's place.
    """

    clip: ClipEncoder
    text: TextEncoder

    @property
    def name(self) -> str:
        return self.clip.name

    @torch.no_grad()
    def text_features(
        self, texts: Sequence[str], placeholder: str, vectors: Float[Tensor, "k width"]
    ) -> Float[Tensor, "n features"]:
        """float32 features on the CPU, not normalised, of prompts with the learned token."""
        distinct = list(dict.fromkeys(texts))
        name = placeholder if len(vectors) else None
        tokens = self.text.tokenize(distinct, name, max(1, len(vectors)))
        ids, slots = tokens.ids.to(self.clip.device), tokens.slots.to(self.clip.device)
        learned = vectors.to(self.clip.device).expand(len(distinct), *vectors.shape)
        output = self.text.run(ids, slots, learned if len(vectors) else None)
        rows = self.clip.model.text_projection(output.pooler_output).float().cpu()
        return cast(Tensor, rows[[distinct.index(text) for text in texts]])

    def require_own(self, pictures: Pictures) -> None:
        """Raises UserError unless the CLIP's lookup is that of the model that was personalized."""
        word, width = pictures.class_word, self.text.width
        own = self.text.rows(torch.tensor(self.text.word_ids(word))).float().cpu()
        of_model = pictures.word_vectors
        if (
            of_model is None
            or of_model.shape != own.shape
            or not torch.allclose(own, of_model.float().cpu(), atol=1e-3)
        ):
            raise UserError(
                f"{self.name}: its text encoder, of width {width}, is not that of the model that "
                "was personalized; give --token-encoder the CLIP that the model's own comes from "
                "(openai/clip-vit-large-patch14 for Stable Diffusion 1.5), or none"
            )

    def fingerprint(self) -> str:
        return self.clip.fingerprint()


def measure_learned_token(encoder: LearnedTokenEncoder, pictures: Pictures) -> Iterator[Score]:
    """How well the images show their prompts, the learned token kept; nothing without either.

    ``clip_score_token`` and ``clip_cosine_token``: means over images of 2.5 max(cos, 0) and of cos
    between an image and its prompt as it was drawn, through the model's own text encoder with the
    learned vectors in the placeholder's place. A change of that encoder's layers (a LoRA's) is not
    in it. A prompt's token may say more of the object than its class noun: not comparable with
    ``clip_score``.
    """
    if not pictures.prompts or pictures.vectors is None:
        return
    encoder.require_own(pictures)
    words = encoder.text_features(pictures.prompts, pictures.placeholder, pictures.vectors)
    cosine = cosine_similarity(encoder.clip.image_features(pictures.generated), words).diagonal()
    n = len(pictures.generated)
    yield Score("clip_score_token", float(clip_score(cosine).mean()), n, 0)
    yield Score("clip_cosine_token", float(cosine.mean()), n, 0)


def with_class_word(prompt: str, placeholder: str, class_word: str) -> str:
    """The prompt a stock CLIP can read: the class noun in the placeholder's place, not doubled.

    The placeholder is a whole word, as where prompts are drawn; the prompt stays without one.
    """
    for words in (f"{placeholder} {class_word}", placeholder) if placeholder else ():
        prompt = class_word.join(around(prompt, words))
    return prompt


def measure_prompts(encoder: ClipEncoder, pictures: Pictures) -> Iterator[Score]:
    """How well the generated images show what their prompts say; nothing without prompts.

    ``clip_score`` and ``clip_cosine``: means over images of 2.5 max(cos, 0) and of cos between an
    image and its prompt with the class noun in place of the placeholder.
    """
    if not pictures.prompts:
        return
    texts = [
        with_class_word(p, pictures.placeholder, pictures.class_word) for p in pictures.prompts
    ]
    cosine = cosine_similarity(
        encoder.image_features(pictures.generated), encoder.text_features(texts)
    ).diagonal()
    n = len(pictures.generated)
    yield Score("clip_score", float(clip_score(cosine).mean()), n, 0)
    yield Score("clip_cosine", float(cosine.mean()), n, 0)
