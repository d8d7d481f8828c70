"""A frozen CLIP text encoder with its tokenizer: prompts around slots, vectors in the lookup."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.errors import UserError
from safezone.models.base import Tokens

# What replaces the lookup's output, in the thread that is embedding text just now.
_REPLACE: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("replace", default=None)


class TextEncoder:
    """``module``: a CLIPTextModel, with projection or without; ``tokenizer``: its CLIPTokenizer."""

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.module, self.tokenizer = module, tokenizer
        self.lookup: torch.nn.Embedding = module.get_input_embeddings()
        self.lookup.register_forward_hook(_inject)
        self.width = int(self.lookup.embedding_dim)
        # A tokenizer whose files name no length claims 1e30.
        self.length = min(
            int(tokenizer.model_max_length), int(module.config.max_position_embeddings)
        )
        special = set(tokenizer.all_special_ids)
        self.ordinary = [i for i in range(len(tokenizer)) if i not in special]
        # A token that no pooling looks for: neither start, end nor padding.
        self._slot_id = self.ordinary[0]

    @property
    def layers(self) -> Any:
        """The module below which the layers are: CLIPTextModel had one more level before 5.6."""
        return getattr(self.module, "text_model", self.module)

    def tokenize(self, prompts: Sequence[str], placeholder: str | None, vectors: int) -> Tokens:
        """As ``Model.tokenize``."""
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
            words = self.word_ids(text)
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

    def word_ids(self, text: str) -> list[int]:
        """The tokens of the text alone: no start, end or padding."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def rows(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The frozen lookup's rows for token ids of any shape."""
        weight = self.lookup.weight.detach()
        return weight[ids.to(weight.device)].clone()

    def padded_alike(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """Another tokenizer's ids with this one's padding: what follows the first end token."""
        end = (ids == self.tokenizer.eos_token_id).int()
        after = end.cumsum(dim=1) - end > 0
        return ids.masked_fill(after, self.tokenizer.pad_token_id)

    def run(
        self,
        ids: Int[Tensor, "batch length"],
        slots: Int[Tensor, "batch length"],
        vectors: Float[Tensor, "batch vectors width"] | None,
        **options: Any,
    ) -> Any:
        """The module's output; ``vectors[i, k]`` in place of the lookup where ``slots[i] == k``."""
        if vectors is None:
            return self.module(ids, **options)
        with _replacing(_at_slots(slots, vectors)):
            return self.module(ids, **options)


def check_vectors(tokens: Tokens, vectors: Tensor | None, width: int) -> Tensor | None:
    """The vectors where the tokens need them, else None; ValueError for too few or misshapen."""
    needed = tokens.vectors
    if needed is None:
        needed = int(tokens.slots.max()) + 1 if tokens.slots.numel() else 0
    if needed == 0:
        return None
    expected = (len(tokens.ids), width)
    if vectors is None:
        raise ValueError("the tokens have slots for learned vectors, but no vectors were given")
    if vectors.ndim != 3 or (len(vectors), vectors.shape[2]) != expected:
        raise ValueError(f"vectors {tuple(vectors.shape)} do not fit (batch, width) {expected}")
    if needed > vectors.shape[1]:
        raise ValueError(f"the tokens need {needed} vectors, {vectors.shape[1]} were given")
    return vectors


@contextmanager
def _replacing(replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    reset = _REPLACE.set(replace)
    try:
        yield
    finally:
        _REPLACE.reset(reset)


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
