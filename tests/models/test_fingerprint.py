"""Other weights, other key: wherever a model keeps them."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from torch import nn

from safezone.models import Model, load_model
from safezone.models.fingerprint import fingerprint
from safezone.models.pixel import load_pixel_model
from safezone.scores import load_encoder, load_text_image_encoder
from tiny import write_tiny_folder, write_tiny_pixel_folder, write_tokenizer


class Holder:
    """A model of anyone's; where it keeps its networks is its own affair."""

    def __init__(self, networks: Any, name: str = "mine") -> None:
        self.name = name
        self.kept = networks


class Hiding(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.networks = [network]  # torch does not know of it


def closure(network: nn.Module) -> Callable[[], object]:
    return lambda: network


@dataclass(frozen=True, eq=False)
class Slots:
    network: nn.Module


def pipeline(network: nn.Module) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            norm_num_groups=4,
            add_attention=False,
        )
    unet.conv_out = network
    return DDPMPipeline(unet, DDIMScheduler())


PLACES: dict[str, Callable[[nn.Module], Any]] = {
    "attribute": lambda n: n,
    "list": lambda n: [nn.Linear(1, 1).requires_grad_(False).apply(zeros), n],
    "tuple": lambda n: (n,),
    "dict": lambda n: {"unet": n},
    "dict in a list": lambda n: [{"a": OrderedDict(b=n)}],
    "pipeline": pipeline,
    "list of pipelines": lambda n: [pipeline(n)],
    "object": lambda n: SimpleNamespace(inner=n),
    "dataclass": Slots,
    "closure": closure,
    "bound method": lambda n: n.forward,
    "list in a module": Hiding,
    "state dict": lambda n: n.state_dict(),
    "array": lambda n: n.state_dict()["weight"].numpy(),
}


def zeros(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.zero_()


def network() -> nn.Conv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Conv2d(8, 3, 3, padding=1)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_other_weights_have_another_fingerprint_wherever_they_are(
    place: Callable[[nn.Module], Any],
) -> None:
    inner = network()
    holder = Holder(place(inner))
    before = fingerprint(holder)
    assert before == fingerprint(holder) == fingerprint(Holder(place(network()), name="other"))
    with torch.no_grad():
        inner.weight[2, 7, 2, 2] += 1e-6
    changed = place(inner) if isinstance(holder.kept, tuple | dict) else holder.kept
    assert fingerprint(Holder(changed)) != before


def test_a_change_in_place_is_seen_by_the_same_object() -> None:
    holder = Holder({"unet": [network()]})
    before = fingerprint(holder)
    with torch.no_grad():
        holder.kept["unet"][0].bias.zero_()
    assert fingerprint(holder) != before


def test_order_and_place_count() -> None:
    first, second = network(), nn.Conv2d(8, 3, 3, padding=1)
    pairs = [[first, second], [second, first], {"a": first, "b": second}, {"b": first, "a": second}]
    assert len({fingerprint(Holder(pair)) for pair in pairs}) == 4
    assert fingerprint(Holder({"a": first, "b": second})) == fingerprint(
        Holder({"b": second, "a": first})
    )


@pytest.mark.parametrize("change", ["process", "tokenizer", "scheduler", "scale", "dtype"])
def test_what_stands_beside_the_weights_counts(tmp_path: Path, change: str) -> None:
    folder = write_tiny_folder(tmp_path / "model")
    before = load_model(folder).fingerprint()
    copy = load_model(write_tiny_folder(tmp_path / "elsewhere"))
    assert copy.fingerprint() == before, "the same bytes in another folder are the same model"
    model: Any = load_model(folder, dtype=torch.bfloat16 if change == "dtype" else torch.float32)
    if change == "process":
        model.process = type(model.process)(model.process.alphas_cumprod.square())
    elif change == "tokenizer":
        model.tokenizer = write_tokenizer(tmp_path / "shorter", 20)
    elif change == "scheduler":
        model._scheduler_config["steps_offset"] = 0
    elif change == "scale":
        model.vae.register_to_config(scaling_factor=0.5)
    assert model.fingerprint() != before


def test_using_a_model_does_not_change_it(tiny_model: Model) -> None:
    before = tiny_model.fingerprint()
    tokens = tiny_model.tokenize(["a photo of a cat"], "cat")
    vectors = torch.zeros(1, 1, tiny_model.embedding_width)
    conditioning = tiny_model.embed_text(tokens, vectors)
    latents = torch.zeros(1, tiny_model.latent_channels, 8, 8)
    tiny_model.predict(latents, torch.tensor([3]), conditioning)
    tiny_model.scheduler().set_timesteps(3)
    assert load_model(tiny_model.folder).fingerprint() == before == tiny_model.fingerprint()


def test_pixel_models_and_encoders_have_one(tmp_path: Path) -> None:
    pixels = [
        load_pixel_model(str(write_tiny_pixel_folder(tmp_path / str(s), seed=s))) for s in (1, 2)
    ]
    owners = [
        *pixels,
        load_encoder("mini-instance", "cpu"),
        load_text_image_encoder("mini-clip", "cpu"),
    ]
    assert len({owner.fingerprint() for owner in owners}) == 4


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(TypeError, match=r"kept.*object.*unknown"):
        fingerprint(Holder(object()))
