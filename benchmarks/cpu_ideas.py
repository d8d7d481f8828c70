"""Where a processor's time goes on the built-in model, and what some ideas would give.

    OMP_NUM_THREADS=1 python -m benchmarks.cpu_ideas

Processor seconds, which a busy machine disturbs less than the clock; the best of some calls.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from safezone.lab.cost import count_passes
from safezone.models import load_model

CALLS = 15


def best(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    call()
    seconds = []
    for _ in range(CALLS):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return min(seconds) * 1000


def composed(x: Tensor, slope: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Group norm's gradient at its input, of sums and products over channels-last rows."""
    batch, channels, height, width = x.shape
    groups = mean.shape[1]
    rows, slopes = (
        each.permute(0, 2, 3, 1).reshape(batch, height * width, channels) for each in (x, slope)
    )
    inner, outer = (
        (each.sum(1) * weight).view(batch, groups, -1).sum(2) for each in (rows * slopes, slopes)
    )
    per_row = (outer * mean - inner) * rstd**3 / (height * width * channels // groups)
    constant = -per_row * mean - outer * rstd / (height * width * channels // groups)
    a = (rstd[:, :, None] * weight.view(1, groups, -1)).reshape(batch, 1, channels)
    b, c = (
        each[:, :, None].expand(batch, groups, channels // groups).reshape(batch, 1, channels)
        for each in (per_row, constant)
    )
    result = torch.addcmul(c, rows, b).addcmul_(slopes, a)
    return result.view(batch, height, width, channels).permute(0, 3, 1, 2)


def norms(shape: tuple[int, int, int, int]) -> str:
    """What group norm and SiLU take at this shape, channels last, and the gradient otherwise."""
    x, slope = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in "xy")
    weight, sizes = torch.rand(shape[1]), (*shape[:2], shape[2] * shape[3], 8)
    y, mean, rstd = torch.native_group_norm(x, weight, weight, *sizes, 1e-5)
    own = torch.ops.aten.native_group_norm_backward
    mask = [True, False, False]
    norm = best(lambda: torch.native_group_norm(x, weight, weight, *sizes, 1e-5))
    back = best(lambda: own(slope, x, mean, rstd, weight, *sizes, mask))
    ours = best(lambda: composed(x, slope, weight, mean, rstd))
    torch.testing.assert_close(
        own(slope, x, mean, rstd, weight, *sizes, mask)[0],
        composed(x, slope, weight, mean, rstd),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    return (
        f"{shape}: group norm {norm:.2f} ms, SiLU {best(lambda: functional.silu(y)):.2f}, "
        f"group norm backwards {back:.2f}, composed of other operations {ours:.2f}"
    )


@torch.no_grad()
def main() -> None:
    product = torch.randn(1024, 1024)
    print(f"matrix products: {2 * 1024**3 / best(lambda: product @ product) / 1e6:.0f} GFLOP/s")
    model = load_model("mini", "cpu")
    passes, count = count_passes(model), 12
    latents = torch.randn(count, model.latent_channels, 16, 16)
    words = model.embed_text(model.tokenize(["a photo"] * count))
    steps = torch.full((count,), 500)
    images = torch.rand(5, 3, 128, 128)
    for name, operations, ms in (
        ("U-Net", count * passes.predict, best(lambda: model.predict(latents, steps, words))),
        ("encoder", 5 * passes.encode, best(lambda: model.encode(images))),
    ):
        print(f"{name}: {operations / ms / 1e6:.0f} GFLOP/s")
    for shape in ((5, 24, 128, 128), (48, 64, 16, 16)):
        print(norms(shape))
    q, k, v = (torch.randn(48, 4, 64, 28) for _ in "qkv")
    fused = best(lambda: functional.scaled_dot_product_attention(q, k, v))
    plain = best(lambda: ((q @ k.mT) * 28**-0.5).softmax(-1) @ v)
    print(f"attention of the 8 x 8 level, 48 rows: {fused:.2f} ms, as products {plain:.2f}")


if __name__ == "__main__":
    main()
