"""One resumable training loop for every stage of the built-in models."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from safezone.files import write_safetensors
from training.parallel import average_gradients, rank


def trapezoid(
    step: int, steps: int, peak: float, warmup: int = 100, fall: float = 0.25, floor: float = 0.02
) -> float:
    """Linear warm-up to ``peak``, then constant, then a straight fall over the last ``fall``.

    Unlike a cosine it does not depend on ``steps`` before the fall, so that a training which is
    stopped early or made longer is still one schedule.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    left = (steps - step) / max(1.0, fall * steps)
    return peak * max(floor, min(1.0, left))


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

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        for key, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"now/{key}"])
            self.ema[key].copy_(tensors[f"ema/{key}"])
            if f"m/{key}" in tensors:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": tensors[f"m/{key}"].clone(),
                    "exp_avg_sq": tensors[f"v/{key}"].clone(),
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
    steps: int,
    rate: float,
    *,
    ema: float = 0.999,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float = 1.0,
    checkpoint_every: int = 100,
) -> None:
    """Trains ``modules`` for ``steps`` steps, resuming from ``folder/<name>.safetensors``.

    ``loss_at(step)`` draws its own data from the step's number (and, when several processes
    train together, from the process's rank), so that a resumed run sees what an undisturbed one
    sees. The modules hold the averaged parameters at the end. Raises FloatingPointError
    when the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / f"{name}.safetensors", folder / f"{name}.jsonl"
    state = Trainable(modules, ema, betas)
    begin = 0
    if path.exists():
        begin = int(json.loads(checkpoint_metadata(path)["step"]))
        state.load(load_file(path), begin)
    recent: list[float] = []
    started = time.monotonic()
    leads = rank() == 0
    for step in tqdm(
        range(begin, steps),
        desc=name,
        initial=begin,
        total=steps,
        mininterval=5,
        disable=not leads,
    ):
        loss = loss_at(step)
        loss.backward()
        state.step(trapezoid(step, steps, rate), step, clip)
        recent.append(float(loss.detach()))
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            mean = sum(recent) / len(recent)
            if not math.isfinite(mean):
                raise FloatingPointError(f"{name}: the loss is not finite at step {step}")
            if leads:
                write_safetensors(path, state.tensors(), {"step": str(step + 1)})
                line = {"step": step + 1, "loss": mean, "seconds": time.monotonic() - started}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            recent.clear()
    state.use_ema()


def checkpoint_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})
