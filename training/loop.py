"""One resumable training loop for every stage of the built-in models."""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from safezone.files import write_safetensors
from training.parallel import average_gradients, of_first, rank


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: so many steps, or as many as fit into so many seconds.

    Only a training of so many steps can be repeated to the bit.
    """

    steps: int
    seconds: float | None = None

    def share(self, step: int, elapsed: float) -> float:
        """How much of it is used up after ``step`` steps and ``elapsed`` seconds, in [0, 1]."""
        used = step / self.steps if self.seconds is None else elapsed / self.seconds
        return min(1.0, used)


def trapezoid(
    step: int, share: float, peak: float, warmup: int = 100, fall: float = 0.25, floor: float = 0.02
) -> float:
    """Linear warm-up to ``peak``, then constant, then a straight fall over the last ``fall``.

    ``share``: of the training that is over, in [0, 1]. Unlike a cosine the rate does not depend on
    the training's length before the fall.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(floor, min(1.0, (1 - share) / fall))


def zero_residual_branches(model: nn.Module) -> None:
    """Lets every ResnetBlock2D start as its shortcut, by zeros in its second convolution."""
    for name, module in model.named_modules():
        if name.endswith("conv2") and isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)


class Trainable:
    """Parameters, Adam moments and an exponential moving average that live in one checkpoint."""

    def __init__(self, modules: dict[str, nn.Module], ema: float, betas: tuple[float, float]):
        self.modules = modules
        self.parameters = {
            f"{name}.{key}": parameter
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.ema_decay = ema
        self.ema = {key: p.detach().clone() for key, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=betas, weight_decay=0.0, fused=True
        )

    def step(self, rate: float, done: int, clip: float) -> None:
        """One AdamW step at ``rate`` with gradient clipping; then the moving average."""
        average_gradients(self.parameters.values())
        nn.utils.clip_grad_norm_(self.parameters.values(), clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.ema_decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(
            list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay
        )

    def tensors(self) -> dict[str, Tensor]:
        found = {f"now/{k}": p.detach() for k, p in self.parameters.items()}
        found |= {f"ema/{k}": p for k, p in self.ema.items()}
        for key, parameter in self.parameters.items():
            state = self.optimizer.state.get(parameter)
            if state:
                found[f"m/{key}"], found[f"v/{key}"] = state["exp_avg"], state["exp_avg_sq"]
        return found

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        for key, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"now/{key}"])
            self.ema[key].copy_(tensors[f"ema/{key}"])
            if f"m/{key}" in tensors:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=parameter.device),
                    # in the parameter's own order in memory, on which the last bit depends
                    "exp_avg": torch.empty_like(parameter).copy_(tensors[f"m/{key}"]),
                    "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"v/{key}"]),
                }

    def use_ema(self) -> None:
        """Puts the averaged parameters in place of the trained ones."""
        for key, parameter in self.parameters.items():
            parameter.data.copy_(self.ema[key])


def train(
    name: str,
    folder: Path,
    modules: dict[str, nn.Module],
    loss_at: Callable[[int], Tensor],
    budget: Budget,
    rate: float,
    *,
    ema: float = 0.999,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float = 1.0,
    checkpoint_every: int = 100,
) -> None:
    """Trains ``modules`` as long as ``budget`` says, resuming from ``folder/<name>.safetensors``.

    ``loss_at(step)`` draws its own data from the step's number (and, when several processes
    train together, from the process's rank), so that a resumed run sees what an undisturbed one
    sees. The modules hold the averaged parameters at the end. Raises FloatingPointError
    when the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / f"{name}.safetensors", folder / f"{name}.jsonl"
    state = Trainable(modules, ema, betas)
    step, before = 0, 0.0
    if path.exists():
        told = checkpoint_metadata(path)
        step, before = int(told["step"]), float(told.get("seconds", 0))
        state.load(load_file(path), step)
    recent: list[Tensor] = []
    started = time.monotonic() - before

    def spent() -> float:
        """Processes with clocks of their own would learn at other rates and end at other steps."""
        own = time.monotonic() - started
        return own if budget.seconds is None else of_first(own)

    def save() -> None:
        elapsed = time.monotonic() - started
        mean = float(torch.stack(recent).mean())
        recent.clear()
        if not math.isfinite(mean):
            raise FloatingPointError(f"{name}: the loss is not finite at step {step}")
        if rank() == 0:
            write_safetensors(
                path, state.tensors(), {"step": str(step), "seconds": f"{elapsed:.3f}"}
            )
            with log.open("a") as file:
                line = {"step": step, "loss": mean, "seconds": elapsed}
                file.write(json.dumps(line) + "\n")

    total = budget.steps if budget.seconds is None else None
    with tqdm(desc=name, initial=step, total=total, mininterval=5, disable=rank() != 0) as bar:
        while (share := budget.share(step, spent())) < 1:
            loss = loss_at(step)
            loss.backward()
            state.step(trapezoid(step, share, rate), step, clip)
            recent.append(loss.detach())
            step += 1
            bar.update()
            if step % checkpoint_every == 0:
                save()
    if recent:
        save()
    state.use_ema()


def half_precision(device: torch.device) -> AbstractContextManager[None]:
    """Forward passes in bfloat16 on a GPU; nothing on a CPU, where that is slower."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")


def checkpoint_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})
