"""A frozen CLIP text encoder with its tokenizer: prompts around slots, vectors in the lookup."""

import re
import warnings
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from textwrap import shorten
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safezone.errors import Notice, UserError
from safezone.models.base import BEYOND, Tokens

# What replaces the lookup's output, in the thread that is embedding text just now.
_REPLACE: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("replace", default=None)


class TextEncoder:
    """``module``: a CLIPTextModel, with projection or without; ``tokenizer``: its CLIPTokenizer.

    ``chunked``: a long prompt is encoded in as many chunks of the module's length as it needs,
    which stand one behind the other, as AUTOMATIC1111 and ComfyUI do; else its end is cut off.
    Shorter prompts beside it are filled up with chunks that nothing attends to.
    """

    def __init__(self, module: Any, tokenizer: Any, chunked: str | bool = False) -> None:
        self.module, self.tokenizer = module, tokenizer
        # Keys hold this word: before, short prompts attended to what filled them up.
        self.chunked = "and masked" if chunked else False
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
        if placeholder is not None and not placeholder.strip():
            raise UserError("the placeholder is empty; give it a name such as <concept>")
        if vectors < 1:
            raise UserError(f"a placeholder needs at least 1 vector, not {vectors}")
        rows = [self._row(prompt, placeholder, vectors) for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            if not self.chunked and any(slot >= 0 for _, slot in row[self.room :]):
                raise UserError(
                    f"the prompt {prompt!r} is too long: {placeholder} with {vectors} vectors "
                    f"has to lie within the first {self.room} tokens"
                )
            if lost := self._lost(row):
                warnings.warn(
                    f"the text encoder takes {self.room} tokens and does not see "
                    f"{shorten(lost, 120)!r} at the end of {shorten(prompt, 120)!r}; shorten it or "
                    "give --long-prompts chunks",
                    Notice,
                    stacklevel=2,
                )
        chunks = max([1, *(-(-len(row) // self.room) for row in rows)]) if self.chunked else 1
        framed = torch.tensor([self._framed(row, chunks) for row in rows], dtype=torch.int64)
        ids, slots = framed.view(len(rows), chunks * self.length, 2).unbind(dim=2)
        return Tokens(ids.contiguous(), slots.contiguous())

    def unseen(
        self, prompts: Sequence[str], placeholder: str | None, vectors: int
    ) -> dict[str, str]:
        lost = {prompt: self._lost(self._row(prompt, placeholder, vectors)) for prompt in prompts}
        return {prompt: end for prompt, end in lost.items() if end}

    @property
    def room(self) -> int:
        """Tokens of text in one pass: the start and the end token stay."""
        return self.length - 2

    def _row(self, prompt: str, placeholder: str | None, vectors: int) -> list[tuple[int, int]]:
        """(token, slot) of the whole prompt, without start, end and padding."""
        row: list[tuple[int, int]] = []
        parts = [prompt] if placeholder is None else around(prompt, placeholder)
        for i, text in enumerate(parts):
            if i > 0:
                row += [(self._slot_id, k) for k in range(vectors)]
            row += [(token, -1) for token in self.word_ids(text)]
        return row

    def _lost(self, row: Sequence[tuple[int, int]]) -> str:
        """The text that is cut off; a placeholder in it is left out."""
        if self.chunked:
            return ""
        lost = [token for token, slot in row[self.room :] if slot < 0]
        return str(self.tokenizer.decode(lost)).strip() if lost else ""

    def _framed(self, row: Sequence[tuple[int, int]], chunks: int) -> list[tuple[int, int]]:
        """So many passes' worth of tokens, each with start, end and padding."""
        words, framed = self.tokenizer, []
        for k in range(chunks):
            part = row[k * self.room : (k + 1) * self.room]
            slot = BEYOND if k and not part else -1
            padding = [(words.pad_token_id, slot)] * (self.room - len(part))
            framed += [(words.bos_token_id, slot), *part, (words.eos_token_id, slot), *padding]
        return framed

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
        """The module's output; ``vectors[i, k]`` in place of the lookup where ``slots[i] == k``.

        One row for each chunk of ``self.length`` tokens, prompt after prompt.
        """
        if vectors is None:
            return self.module(ids, **options)
        reset = _REPLACE.set(_at_slots(slots, vectors))
        try:
            return self.module(ids, **options)
        finally:
            _REPLACE.reset(reset)


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


def around(prompt: str, placeholder: str) -> list[str]:
    """The texts between the placeholders, which are whole words: "a" is not in "cat"."""
    left = r"(?<!\w)" if re.match(r"\w", placeholder) else ""
    right = r"(?!\w)" if re.search(r"\w$", placeholder) else ""
    return re.split(left + re.escape(placeholder) + right, prompt)


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
