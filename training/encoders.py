"""Two of the scoring networks: the attribute classifier and the text-image encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ResNetConfig,
    ResNetModel,
)

from safezone import miniworld
from training.corpus import ABSENT, CAPTIONS, SHRUNKEN, Corpus, write_array
from training.loop import Budget, train
from training.text import LENGTH, WIDTH

SIDE = 64
"""The instance and the text-image encoder look at images shrunk to 64 x 64."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": miniworld.SHAPES,
    "color": miniworld.COLORS,
    "background": miniworld.BACKGROUNDS,
    **{name: (ABSENT, *kinds) for name, kinds in miniworld.EXTRAS.items()},
}


def shrink(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """uint8 [n, 3, h, w] to float [n, 3, 64, 64] in [-1, 1] by area, as scoring does."""
    pixels = torch.as_tensor(np.array(images)).float()
    return functional.interpolate(pixels, size=(SIDE, SIDE), mode="area") / 127.5 - 1


def shrunken(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The corpus at 64 x 64, uint8, kept on disk."""
    path = folder / SHRUNKEN
    if not path.exists():
        small = [
            ((shrink(images[i : i + 500]) + 1) * 127.5).round().to(torch.uint8).numpy()
            for i in tqdm(range(0, len(images), 500), desc="shrink", mininterval=5)
        ]
        write_array(path, np.concatenate(small))
    found: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return found


def small_resnet(hidden: tuple[int, ...], seed: int) -> ResNetModel:
    """A stock ResNet of one basic block a stage, initialised from ``seed``."""
    torch.manual_seed(seed)
    return ResNetModel(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=list(hidden),
            depths=[1] * len(hidden),
            layer_type="basic",
        )
    )


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Light noise, blur for every fourth, a shift of up to 3 pixels; for images in [-1, 1]."""
    noise = torch.from_numpy(rng.standard_normal(images.shape, np.float32))
    strength = torch.from_numpy(rng.random((len(images), 1, 1, 1), np.float32)) * 0.1
    blurred = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    pick = torch.from_numpy(rng.random((len(images), 1, 1, 1)) < 0.25)
    dy, dx = (int(v) for v in rng.integers(-3, 4, 2))
    moved = torch.where(pick, blurred, images).roll((dy, dx), (2, 3))
    return moved + strength * noise


class AttributeClassifier(nn.Module):
    """Shape, main colour, background and parts of an image [n, 3, 128, 128] in [-1, 1].

    A part is a few cells of the last two stages: their largest values tell it, beside their means.
    """

    def __init__(self) -> None:
        super().__init__()
        hidden = (32, 64, 128, 192)
        backbone: Any = small_resnet(hidden, 5)  # transformers' `to` has wrong types
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.heads = nn.ModuleDict(
            {k: nn.Linear(2 * sum(hidden[-2:]), len(v)) for k, v in ATTRIBUTES.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        stages = self.backbone(pixel_values=pixels, output_hidden_states=True).hidden_states[-2:]
        cells = [stage.flatten(2) for stage in stages]
        pooled = torch.cat([p for each in cells for p in (each.mean(2), each.amax(2))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


def train_classifier(
    folder: Path, objects: Corpus, budget: Budget, device: torch.device, *, batch: int
) -> AttributeClassifier:
    """Cross-entropy on the attributes of ``render_objects``'s scenes."""
    told = [example["attributes"] for example in objects.examples]
    labels = {
        name: torch.tensor([values.index(each[name]) for each in told])
        for name, values in ATTRIBUTES.items()
    }
    model = AttributeClassifier().train().to(device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([5, step])
        rows = np.sort(rng.integers(len(told), size=batch))
        pixels = augment(torch.from_numpy(objects.images[rows]).float() / 127.5 - 1, rng)
        outputs = model(pixels.to(device))
        losses = [
            functional.cross_entropy(outputs[k], labels[k][rows].to(device)) for k in ATTRIBUTES
        ]
        return torch.stack(losses).sum()

    train("classifier", folder, {"classifier": model}, loss_at, budget, 2e-3, ema=0.995)
    model.cpu()
    settle_batch_norm(model, objects.images[:2000], lambda pixels: model(pixels))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def settle_batch_norm(model: nn.Module, images: NDArray[np.uint8], run: Any) -> None:
    """Measures the batch-normalisation statistics of the averaged weights on 2,000 images."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    model.train()
    for start in range(0, min(2000, len(images)), 100):
        run(torch.from_numpy(images[start : start + 100]).float() / 127.5 - 1)


def save_classifier(folder: Path, model: AttributeClassifier) -> None:
    """The whole classifier in one safetensors file, half precision."""
    state = {key: _half(value).contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def load_classifier(folder: Path) -> AttributeClassifier:
    """The classifier that ``save_classifier`` wrote, in float32, frozen."""
    model = AttributeClassifier()
    state = load_file(folder / "model.safetensors")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False)


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A stock CLIPModel: a ViT with 8 x 8 patches on 64 x 64 and a text model of two layers."""
    torch.manual_seed(7)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=4,
        num_attention_heads=5,
        image_size=SIDE,
        patch_size=8,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=96)
    )


def clip_embeddings(model: CLIPModel, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised image and text embeddings, [n, width] each."""
    image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    text = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return functional.normalize(image, dim=1), functional.normalize(text, dim=1)


def train_clip(
    folder: Path,
    corpus: Corpus,
    tokenizer: CLIPTokenizer,
    budget: Budget,
    device: torch.device,
    *,
    batch: int,
) -> CLIPModel:
    """The symmetric contrastive loss on pictures and captions of varying detail."""
    images, tokens = shrunken(corpus.folder, corpus.images), corpus.tokens(tokenizer)
    model = new_clip(tokenizer).train().to(device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([7, step])
        rows = np.sort(rng.choice(len(images), batch, replace=False))
        pixels = augment(torch.from_numpy(images[rows]).float() / 127.5 - 1, rng)
        ids = torch.from_numpy(tokens[rows, rng.integers(CAPTIONS, size=batch)]).long()
        image, text = clip_embeddings(model, pixels.to(device), ids.to(device))
        logits = model.logit_scale.exp().clamp(max=50) * image @ text.T
        target = torch.arange(batch, device=device)
        return functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)

    train("clip", folder, {"clip": model}, loss_at, budget, 1e-3, ema=0.995)
    return model.cpu().eval().requires_grad_(False)


def save_clip(folder: Path, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """A stock CLIP folder in half precision with tokenizer and preprocessing."""
    model.half().save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "size": {"height": SIDE, "width": SIDE},
                "crop_size": {"height": SIDE, "width": SIDE},
                "do_center_crop": False,
                "resample": 4,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            }
        )
    )
