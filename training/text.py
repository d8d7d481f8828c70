"""The tokenizer and the text encoder of the built-in models."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from safezone import miniworld
from safezone.concepts.prompts import DREAMBOOTH_OBJECT_PROMPTS, OBJECT_TEMPLATES, STYLE_TEMPLATES

LENGTH = 32
WIDTH = 128
WORDS = (
    *miniworld.VOCABULARY,
    *miniworld.TEXTURE_VOCABULARY,
    *miniworld.names(),
    *miniworld.texture_names(),
)
"""Each of them is one token."""
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each word one token, the most frequent pair first.

    Of equally frequent pairs the alphabetically first: the library's own learner takes any, so
    that two trainings would have two vocabularies.
    """
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))}
    count: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    waiting: list[tuple[int, tuple[str, str]]] = []  # some with counts that they no longer have

    def tally(word: str, sign: int) -> None:
        for pair in pairwise(split[word]):
            count[pair] += sign
            if sign > 0:
                where[pair].add(word)
            else:
                where[pair].discard(word)
            heappush(waiting, (-count[pair], pair))

    for word in split:
        tally(word, 1)
    merges = []
    while waiting:
        number, best = heappop(waiting)
        if number == 0 or number != -count[best]:
            continue
        merges.append(best)
        for word in sorted(where[best]):
            tally(word, -1)
            parts: list[str] = []
            for part in split[word]:
                if parts and (parts[-1], part) == best:
                    parts[-1] += part
                else:
                    parts.append(part)
            split[word] = parts
            tally(word, 1)
    return merges


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Byte-pair encoding with CLIP's conventions; every word and name of the world is one token.

    Merges are learned on the world's vocabulary, the training templates and DreamBooth's
    prompts, so that a user's prompt is never unknown, only unfamiliar.
    """
    texts = [*OBJECT_TEMPLATES, *STYLE_TEMPLATES, *DREAMBOOTH_OBJECT_PROMPTS]
    words = sorted(
        {w for text in texts for w in text.replace("{}", " ").replace(",", " ").lower().split()}
        | set(WORDS)
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(words)
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": LENGTH,
                "bos_token": START,
                "eos_token": END,
                "unk_token": END,
                "pad_token": END,
            }
        )
    )
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    broken = [w for w in WORDS if w.isalpha() and len(tokenizer(w).input_ids) != 3]
    if broken or len(tokenizer) <= 2 * len(alphabet):
        raise RuntimeError(f"the tokenizer splits words of the world: {broken}")
    return tokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained three-layer CLIP text model."""
    torch.manual_seed(1)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )
