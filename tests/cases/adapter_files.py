"""Files that people have given as adapters: broken ones, and such of kinds that are not read."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

LAYER: Final = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
INPUTS, OUTPUTS = 32, 16


def pair(
    rank: int = 2, up_rank: int | None = None, stem: str = LAYER, **more: torch.Tensor
) -> dict[str, torch.Tensor]:
    """A low-rank change of one layer of the tiny model."""
    return {
        f"{stem}.lora_A.weight": torch.ones(rank, INPUTS),
        f"{stem}.lora_B.weight": torch.ones(OUTPUTS, rank if up_rank is None else up_rank),
        **{f"{stem}.{name}": value for name, value in more.items()},
    }


def _saved(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> Callable[[Path], None]:
    return lambda path: save_file(dict(tensors), path, None if metadata is None else dict(metadata))


def _cut(path: Path) -> None:
    save_file({"<toy>": torch.ones(4, 32)}, path)
    path.write_bytes(path.read_bytes()[:-200])


def _header_of_128_bytes(path: Path) -> None:
    """Begins as a pickled file does, with byte 128."""
    entry = {"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}
    text = json.dumps(entry).encode().ljust(128)
    path.write_bytes(struct.pack("<Q", 128) + text)


BROKEN: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty; download it again"),
    "cut": (_cut, "cut short or damaged; download it again"),
    "cut after a header of 128 bytes": (_header_of_128_bytes, "cut short or damaged"),
    "pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 3192\n"),
        "pointer of Git LFS; download the file itself",
    ),
    "page": (
        lambda path: path.write_text("<!doctype html><html>Sign in to download</html>"),
        "a web page; download it again",
    ),
    "xml": (lambda path: path.write_text("\n <?xml version='1.0'?><Error/>"), "a web page"),
    "pickled": (
        lambda path: torch.save({"<toy>": torch.ones(1, 32)}, path),
        "pickled, which can run code when opened; convert it",
    ),
    "pickled long ago": (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "pickled"),
}
"""What is no safetensors file, and the sentence that tells what it is instead."""

REFUSED: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "unequal ranks": (_saved(pair(2, 3)), "ranks 2 and 3"),
    "rank 0": (_saved(pair(0)), "at least 1"),
    "alpha NaN": (_saved(pair(alpha=torch.tensor(torch.nan))), "no finite number"),
    "alpha infinite": (_saved(pair(alpha=torch.tensor(torch.inf))), "no finite number"),
    "two alphas": (_saved(pair(alpha=torch.ones(2))), "no finite number"),
    "half a pair": (_saved({f"{LAYER}.lora_A.weight": torch.ones(2, INPUTS)}), "no matrix"),
    "alpha alone": (_saved({**pair(), f"{LAYER[:-1]}v.alpha": torch.ones(())}), "no matrix"),
    "integers": (
        _saved({f"{LAYER}.diff": torch.ones(OUTPUTS, INPUTS, dtype=torch.int8)}),
        "int8",
    ),
    "two adapters": (
        _saved(
            {
                **{k.replace(".weight", ".one.weight"): v for k, v in pair().items()},
                **{k.replace(".weight", ".two.weight"): v for k, v in pair().items()},
            }
        ),
        "two adapters",
    ),
    "alpha twice": (
        _saved(
            pair(alpha=torch.tensor(2.0)),
            {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})},
        ),
        "alpha twice",
    ),
    "metadata that is a list": (_saved(pair(), {"lora_adapter_metadata": "[]"}), "no JSON object"),
    "metadata that is cut": (_saved(pair(), {"lora_adapter_metadata": '{"unet'}), "JSON object"),
    "alpha that is text": (
        _saved(pair(), {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": "8"})}),
        "no finite number",
    ),
    "our metadata with widths of text": (
        _saved(pair(), {"safezone": json.dumps({"widths": ["x"]})}),
        "broken safezone metadata",
    ),
    "our metadata that is a number": (
        _saved(pair(), {"safezone": "7"}),
        "broken safezone metadata",
    ),
    "peft without its settings": (
        _saved(pair(stem=f"base_model.model.{LAYER[5:]}")),
        "adapter_config.json",
    ),
    "embedding in integers": (_saved({"<x>": torch.ones(1, 32, dtype=torch.int8)}), "int8"),
    "embedding with NaN": (_saved({"<x>": torch.full((1, 32), torch.nan)}), "NaN"),
    "embedding of no vectors": (_saved({"<x>": torch.ones(0, 32)}), "vectors, width"),
    "embedding of SD 3": (
        _saved({"clip_l": torch.ones(1, 8), "clip_g": torch.ones(1, 8), "t5xxl": torch.ones(1, 8)}),
        "3 tensors",
    ),
}
"""Safetensors files whose content is wrong, and a part of the sentence about it."""

VECTORS: Final = torch.arange(64.0).view(2, 32) / 64

EMBEDDINGS: Final[Mapping[str, tuple[Mapping[str, torch.Tensor], str]]] = {
    "the key of kohya's scripts": ({"emb_params": VECTORS.half()}, "<x>"),
    "one vector in bfloat16": ({"emb_params": VECTORS[0].bfloat16()}, "<x>"),
    "diffusers": ({"<mug-x>": VECTORS}, "<mug-x>"),
    "a star": ({"*": VECTORS}, "*"),
    "no name": ({"": VECTORS}, "<x>"),
    "white space": ({" ": VECTORS}, "<x>"),
    "AUTOMATIC1111, flattened": (
        {"string_to_param.*": VECTORS, "string_to_token.*": torch.tensor([265])},
        "<x>",
    ),
    "the same without its token": ({"string_to_param.*": VECTORS}, "<x>"),
    "ComfyUI's name of SD 1.5's encoder": ({"clip_l": VECTORS}, "<x>"),
    "ComfyUI's name of SD 2.1's encoder": ({"clip_h": VECTORS}, "<x>"),
}
"""Embeddings in a file x.safetensors, and the word that each gets; of one width."""

OTHER_KINDS: Final = {
    "LoHa": "hada_w1_a",
    "LoKr": "lokr_w2",
    "IA3": "on_input",
    "DoRA": "lora_magnitude_vector",
    "OFT": "oft_blocks",
    "LoCon": "lora_mid.weight",
    "GLoRA": "a1.weight",
    "LyCORIS norm": "w_norm",
    "LoRA with biases": "lora_B.bias",
}
"""Kinds that are refused by name, and the end of a tensor's name in each."""
