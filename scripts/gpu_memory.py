"""Memory of large models, counted: what autograd keeps of one sample, and the weights.

    PYTHONPATH=src python scripts/gpu_memory.py

Frozen weights, on torch's meta device, so that nothing is allocated. Storages that are kept twice
count once, weights not at all. Attention maps count, which a card's fused attention does not keep.
With checkpointing it is what stays; while one block is computed again its own comes on top.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from gpu_hours import _unet, sd_vae
from torch import Tensor

GIB = 2**30
TEXT = {"sd15": 123e6, "sdxl": 123e6 + 695e6}
"""Parameters of the text encoders."""


def kept(call: Callable[[], Tensor], weights: Any) -> float:
    """GiB that autograd keeps of one call, of tensors that are no weights."""
    own = {parameter.untyped_storage()._cdata for parameter in weights.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
            held.append(tensor)  # or its address would serve another
        return tensor

    with ExitStack() as stack:
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each))
        result = call()
    del result
    return sum(sizes.values()) / GIB


def main() -> None:
    """Prints one line a network."""
    print("| | weights, GiB | kept of one sample, GiB | with checkpointing |\n|---|---:|---:|---:|")
    for model, side in (("sd15", 512), ("sdxl", 1024)):
        unet = _unet(model).requires_grad_(False)
        vae = sd_vae().requires_grad_(False)
        with torch.device("meta"):
            image = torch.empty(1, 3, side, side, requires_grad=True)
            latents = torch.empty(1, 4, side // 8, side // 8)
            words = torch.empty(1, 77, unet.config.cross_attention_dim, requires_grad=True)
            time = torch.zeros(1)

        def predict(unet: Any = unet, inputs: Any = (latents, time, words)) -> Tensor:
            result: Tensor = unet(*inputs).sample
            return result

        def poisoned(unet: Any = unet, z: Any = latents, time: Any = time) -> Tensor:
            words = torch.empty(1, 77, unet.config.cross_attention_dim, device="meta")
            result: Tensor = unet(z.detach().clone().requires_grad_(True), time, words).sample
            return result

        def encode(vae: Any = vae, image: Tensor = image) -> Tensor:
            result: Tensor = vae.encode(image).latent_dist.mean
            return result

        parts = {"U-Net, inversion": (unet, predict), "U-Net, poison": (unet, poisoned)}
        parts |= {"encoder": (vae, encode)}
        for name, (network, call) in parts.items():
            size = sum(each.numel() for each in network.parameters()) * 4 / GIB
            plain, less = kept(call, network), ""
            if network is unet:
                unet.train()
                unet.enable_gradient_checkpointing()
                less = f"{kept(call, network):.1f}"
                unet.disable_gradient_checkpointing()
            print(f"| {model}, {name} | {size:.1f} | {plain:.1f} | {less} |", flush=True)
        print(f"| {model}, text encoders | {TEXT[model] * 4 / GIB:.1f} | | |")


if __name__ == "__main__":
    main()
