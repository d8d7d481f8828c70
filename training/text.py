"""The tokenizer and the text encoder of the built-in models."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
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
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        words * 2,
        trainers.BpeTrainer(
            vocab_size=2 * len(alphabet) + 20_000,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
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
