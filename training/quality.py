"""What the built-in models are worth: ``python -m training.quality``.

Everything is measured on held-out scenes with the weights that ship. Where the 500 generated
images are judged, the classifier's own accuracy on held-out renders stands beside it.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from safezone import miniworld
from safezone.arrays import Images
from safezone.concepts import Concept
from safezone.concepts.datasets import miniworld_concepts
from safezone.defenses import defense
from safezone.generate import generate
from safezone.image_metrics import psnr
from safezone.images import read_image
from safezone.models import Model, load_model
from safezone.models.known import WEIGHTS
from safezone.poisons import poison, poison_concept
from safezone.scores import load_encoder, load_text_image_encoder
from training.corpus import ABSENT, HELD_OUT_SEED, attributes
from training.encoders import ATTRIBUTES, load_classifier
from training.instance import render_pairs


def held_out(count: int) -> tuple[Tensor, list[miniworld.Scene]]:
    """Scenes of the held-out seed: uint8 [count, 3, 128, 128] and what they show."""
    scenes = [miniworld.scene_at(HELD_OUT_SEED, index) for index in range(count)]
    images = np.stack([miniworld.render(scene).image.transpose(2, 0, 1) for scene in scenes])
    return torch.from_numpy(images), scenes


def _spread(values: Tensor) -> dict[str, float]:
    low, middle, high = values.float().quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    mean = float(values.float().mean())
    return {"mean": mean, "q05": low, "median": middle, "q95": high, "n": len(values)}


def _reconstruction(model: Model, images: Images) -> dict[str, float]:
    found = []
    for batch in images.split(16):
        found.append(psnr(model.decode(model.encode(batch).mean).clamp(0, 1), batch))
    return _spread(torch.cat(found))


def autoencoder_quality(model: Model, scenes: Tensor, photos: Path | None) -> dict[str, Any]:
    """PSNR in dB of scenes and of photographs."""
    result: dict[str, Any] = {"scenes": _reconstruction(model, scenes.float() / 255)}
    if photos is not None:
        paths = sorted(p for p in photos.rglob("*") if p.suffix.lower() in {".jpg", ".png"})
        arrays = [
            torch.from_numpy(read_image(p)).permute(2, 0, 1)[None].float() / 255 for p in paths
        ]
        for side in (128, 512):
            squares = torch.cat([_square(a, side) for a in arrays])
            result[f"photographs {side} px"] = _reconstruction(model, squares)
    return result


def _square(image: Tensor, side: int) -> Tensor:
    height, width = image.shape[-2:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    crop = image[..., top : top + short, left : left + short]
    return functional.interpolate(crop, (side, side), mode="area")


def classified(images: Tensor) -> dict[str, Tensor]:
    """The attribute classifier's answers, an index into ``ATTRIBUTES`` each."""
    classifier = load_classifier(WEIGHTS / "mini-classifier")
    outputs: dict[str, list[Tensor]] = {name: [] for name in ATTRIBUTES}
    for batch in images.split(100):
        for name, logits in classifier(batch.float() / 127.5 - 1).items():
            outputs[name].append(logits.argmax(1))
    return {name: torch.cat(parts) for name, parts in outputs.items()}


def accuracy(images: Tensor, scenes: list[miniworld.Scene]) -> dict[str, float]:
    """The share of images in which the classifier finds the scene's attribute.

    Of a part it is the share among the objects that have it; "no hat" is the share of those without
    one in which it finds none.
    """
    answers, told = classified(images), [attributes(scene) for scene in scenes]
    shares = {}
    for name, values in ATTRIBUTES.items():
        truth = torch.tensor([values.index(each[name]) for each in told])
        there = torch.tensor([each[name] != ABSENT for each in told])
        hits = (answers[name] == truth).float()
        shares[name] = float(hits[there].mean())
        if not there.all():
            shares[f"no {name}"] = float(hits[~there].mean())
    return shares


def generation_quality(
    model: Model, scenes: list[miniworld.Scene], guidance: float, steps: int, seed: int
) -> tuple[dict[str, float], Tensor]:
    """One image for the full caption of each scene, judged by the classifier."""
    prompts = [miniworld.full_caption(scene) for scene in scenes]
    (images,) = generate(
        model, [None], prompts, seed=seed, steps=steps, guidance=guidance, batch_size=32
    )
    return accuracy(images, scenes), images


def named_quality(model: Model, count: int, seed: int) -> dict[str, float]:
    """Similarity of ``count`` named objects, drawn by their word alone, to renders of them."""
    encoder, cosines = load_encoder("mini-instance"), []
    places = list(miniworld.BACKGROUND_PHRASES.values())
    for number in range(count):
        name = miniworld.names()[number]
        prompts = [f"a photo of a {name} {place}" for place in places]
        prompts += [f"a {name}", f"a photo of a {name}", f"a picture of a {name}", f"my {name}"]
        (drawn,) = generate(model, [None], prompts, seed=seed, steps=25, batch_size=12)
        rng = np.random.default_rng([HELD_OUT_SEED, number])
        spec = miniworld.named_object(number)
        renders = [miniworld.render(miniworld.sample_scene(rng, spec)).image for _ in range(5)]
        truth = torch.from_numpy(np.stack(renders)).permute(0, 3, 1, 2).contiguous()
        first, second = (
            functional.normalize(encoder.features(images), dim=1) for images in (drawn, truth)
        )
        cosines.append((first @ second.T).mean())
    return _spread(torch.stack(cosines))


def attack_quality(model: Model, concept: Concept, name: str, seed: int) -> dict[str, float]:
    """How the encoder is attacked by a poison at 16/255, three numbers beside Stable Diffusion's.

    ``high``: the share of the change's energy above 1/8 cycles a pixel. ``left``: how much of the
    latents' change is left when clean and poisoned images are both JPEGs of quality 25. ``gain``:
    the latents' relative change over the pixels'.
    """
    poisoned = poison_concept(model, concept, poison(name), seed=seed, progress=False).images
    clean = concept.images
    change = (poisoned.float() - clean.float()) / 255
    energy = torch.fft.fft2(change).abs().square()
    frequency = torch.fft.fftfreq(change.shape[-1])
    radius = (frequency[:, None].square() + frequency[None].square()).sqrt()
    jpeg = defense("jpeg").preprocess

    def latents(images: Images) -> Tensor:
        return model.encode(images.float() / 255).mean

    def moved(first: Tensor, second: Tensor) -> Tensor:
        return (latents(first) - latents(second)).norm()

    whole = moved(poisoned, clean)
    pixels = change.norm() / (clean.float() / 255).norm()
    return {
        "high": float(energy[..., radius > 1 / 8].sum() / energy.sum()),
        "left": float(moved(jpeg(poisoned, seed), jpeg(clean, seed)) / whole),
        "gain": float(whole / latents(clean).norm() / pixels),
    }


def instance_quality(pairs: int, work: Path) -> Mapping[str, Any]:
    """Cosines of the same object in two scenes, of different objects, and the AUC between."""
    found = torch.from_numpy(np.array(render_pairs(work, HELD_OUT_SEED, pairs).images))
    features = load_encoder("mini-instance").features(found.flatten(0, 1))
    first, second = functional.normalize(features, dim=1).view(pairs, 2, -1).unbind(1)
    cosines = first @ second.T
    same, other = cosines.diag(), cosines[~torch.eye(pairs, dtype=torch.bool)]
    ranks = torch.searchsorted(other.sort().values, same)
    return {
        "same": _spread(same),
        "other": _spread(other),
        "auc": float((ranks / len(other)).mean()),
    }


def retrieval_quality(
    images: Tensor, scenes: list[miniworld.Scene], choices: int
) -> dict[str, float]:
    """How often the right one of ``choices`` full captions is nearest to an image."""
    encoder = load_text_image_encoder("mini-clip")
    image = functional.normalize(encoder.image_features(images), dim=1)
    text = functional.normalize(
        encoder.text_features([miniworld.full_caption(s) for s in scenes]), dim=1
    )
    hits = [
        (image[i : i + choices] @ text[i : i + choices].T).argmax(1) == torch.arange(choices)
        for i in range(0, len(images) - choices + 1, choices)
    ]
    matched = (image * text).sum(1)
    return {
        f"top-1 of {choices}": float(torch.cat(hits).float().mean()),
        "cosine of the right caption": float(matched.mean()),
        "cosine of another": float((image * text.roll(1, 0)).sum(1).mean()),
    }


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    """Measures everything and prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m training.quality")
    parser.add_argument(
        "--model",
        default="mini",
        help="mini, or a twin of it, of which only what it draws is measured",
    )
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--images", type=int, default=500, help="how many to generate")
    parser.add_argument("--named", type=int, default=50, help="how many named objects to draw")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("work-train"), help="rendered pairs")
    parser.add_argument("--sheet", type=Path, help="write the first 64 generated images here")
    options = parser.parse_args(arguments)
    model = load_model(options.model)
    images, scenes = held_out(max(1000, 2 * options.images))
    wanted = scenes[: options.images]
    generated, pictures = generation_quality(
        model, wanted, options.guidance, options.steps, options.seed
    )
    result: dict[str, Any] = {"classifier on generated": {**generated, "n": len(wanted)}}
    result["named objects"] = named_quality(model, options.named, options.seed)
    if options.model == "mini":  # the rest is shared with its twins
        first = miniworld_concepts(which="development")[0]
        result |= {
            "attack": {
                name: attack_quality(model, first, name, options.seed) for name in ("ea", "adm+")
            },
            "autoencoder PSNR": autoencoder_quality(model, images[:200], options.photos),
            "classifier on renders": accuracy(images, scenes),
            "instance encoder": instance_quality(500, options.work),
            "text-image encoder": retrieval_quality(images[:1000], scenes[:1000], 50),
        }
    if options.sheet:
        from safezone.images import write_png

        rows = [torch.cat(list(row), -1) for row in pictures[:64].split(8)]
        write_png(options.sheet, torch.cat(rows, -2))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
