"""The captured step is the eager one to rounding, whatever happens on the way.

On the CPU the captured function is called as it is; on a GPU it is recorded and replayed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from safezone.concepts import Concept
from safezone.defenses import Defense, LossMask
from safezone.defenses.loss_masks import Masked
from safezone.errors import UserError
from safezone.models import Model, load_model
from safezone.models.deltas import LowRank
from safezone.personalize import (
    Adapter,
    CustomDiffusion,
    LoRA,
    Personalization,
    TextualInversion,
    TrainingRun,
    train,
)
from safezone.personalize.samples import Injection
from safezone.personalize.steps import CapturedStep
from tiny import write_tiny_xl_folder

METHODS: dict[str, Personalization] = {
    "one vector": TextualInversion(steps=6, learning_rate=5e-3, log_every=2),
    "anchored, accumulated, decayed": TextualInversion(
        steps=6,
        learning_rate=5e-3,
        vectors=2,
        norm_anchor=True,
        accumulation=2,
        batch_size=2,
        weight_decay=0.1,
        schedule="cosine",
        log_every=3,
    ),
    "lora": LoRA(steps=6, learning_rate=1e-3, batch_size=2, log_every=2),
    "lora of the text encoder": LoRA(steps=4, learning_rate=1e-3, text_encoder=True),
    "custom diffusion": CustomDiffusion(steps=4, learning_rate=1e-3, schedule="linear"),
}


def learned(
    model: Model, runs: Sequence[TrainingRun], method: Personalization, **more: Any
) -> list[Adapter]:
    return train(model, runs, method, progress=False, **more)


def parameters(adapter: Adapter) -> dict[str, torch.Tensor]:
    """What was learned, by the names that the methods give it."""
    result = {"vectors": adapter.vectors} if len(adapter.vectors) else {}
    for name, delta in adapter.deltas.items():
        if isinstance(delta, LowRank):
            result |= {f"{name}.down": delta.down, f"{name}.up": delta.up}
        else:
            result[f"{name}.change"] = delta.change
    return result


def failed_at(adapter: Adapter) -> Any:
    return adapter.provenance["failed_at"]


def assert_equal(first: Sequence[Adapter], second: Sequence[Adapter]) -> None:
    for one, other in zip(first, second, strict=True):
        assert failed_at(one) == failed_at(other)
        losses = [each.provenance["final_loss"] for each in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        others = parameters(other)
        assert set(parameters(one)) == set(others)
        for name, value in parameters(one).items():
            torch.testing.assert_close(value, others[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("max_batch", [64, 3])
@pytest.mark.parametrize("kind", METHODS)
def test_a_captured_training_equals_the_eager_one(
    tiny_model: Model, sixteen: Sequence[TrainingRun], kind: str, max_batch: int
) -> None:
    method, runs = METHODS[kind], sixteen[::3]
    eager, captured = (
        learned(tiny_model, runs, method, max_batch=max_batch, captured=each)
        for each in (False, True)
    )
    assert_equal(eager, captured)
    start = Injection(tiny_model, method, [run.prepare(tiny_model) for run in runs]).initial
    name = min(start)
    moved = [(parameters(one)[name] - start[name][r]).abs().max() for r, one in enumerate(captured)]
    assert min(moved) > 1e-4


def test_prior_preservation_is_captured(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    run = replace(run_of(concept, "szt"), prior=concept.images.flip(0))
    method = LoRA(steps=4, learning_rate=1e-3, prior_weight=0.7, prior_images=3)
    assert_equal(
        learned(tiny_model, [run], method), learned(tiny_model, [run], method, captured=True)
    )


def test_a_captured_training_that_was_killed_goes_on_to_the_same_bytes(
    tiny_model: Model, sixteen: Sequence[TrainingRun], tmp_path: Path
) -> None:
    method = replace(METHODS["one vector"], checkpoint_every=1)
    whole = train(
        tiny_model, sixteen[:3], method, tmp_path / "whole", progress=False, captured=True
    )

    class Killed(Exception):
        pass

    def kill(step: int, adapters: object) -> None:
        if step in killed_at:
            killed_at.remove(step)
            raise Killed

    killed_at = [2, 5]
    previewed, done = replace(method, preview_every=1), tmp_path / "killed"
    for _ in range(2):
        with pytest.raises(Killed):
            train(
                *(tiny_model, sixteen[:3], previewed, done),
                progress=False,
                preview=kill,
                captured=True,
            )
    again = train(tiny_model, sixteen[:3], previewed, done, progress=False, captured=True)
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one.vectors, other.vectors)
    logs = [sorted((tmp_path / n / "logs").iterdir()) for n in ("whole", "killed")]
    assert [p.read_bytes() for p in logs[0]] == [p.read_bytes() for p in logs[1]]


def test_logs_are_those_of_the_eager_training(
    tiny_model: Model, sixteen: Sequence[TrainingRun], tmp_path: Path
) -> None:
    lines = []
    for captured in (False, True):
        folder = tmp_path / str(captured)
        train(
            *(tiny_model, sixteen[:2], METHODS["one vector"], folder),
            progress=False,
            captured=captured,
        )
        texts = [path.read_text() for path in sorted((folder / "logs").iterdir())]
        lines.append([json.loads(line) for text in texts for line in text.splitlines()])
    assert len(lines[0]) == len(lines[1]) == 6
    for eager, other in zip(*lines, strict=True):
        assert eager == pytest.approx(other, rel=1e-4)


class BrokenLater(LossMask):
    """A loss mask that is NaN on the last image."""

    def __call__(self, images: torch.Tensor, *rest: Any, **more: Any) -> Masked:
        weights = torch.ones(3, 1, 8, 8)
        weights[-1] = torch.nan
        return Masked(images, weights)


def test_a_run_that_becomes_nan_stops_there_and_its_neighbours_go_on(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    broken = run_of(concept, Defense("broken", loss_mask=BrokenLater()), seed=4)
    runs, method = [run_of(concept), broken, run_of(concept, "t600")], METHODS["one vector"]
    method = replace(method, steps=8)
    eager, captured = (learned(tiny_model, runs, method, captured=each) for each in (False, True))
    assert [failed_at(each) is None for each in captured] == [True, False, True]
    assert_equal(eager, captured)


def test_when_all_have_failed_it_ends_with_the_next_line_of_the_log(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    class Broken(BrokenLater):
        def __call__(self, images: torch.Tensor, *rest: Any, **more: Any) -> Masked:
            return Masked(images, torch.full((3, 1, 8, 8), torch.nan))

    run = run_of(concept, Defense("broken", loss_mask=Broken()))
    method, lines = replace(METHODS["one vector"], steps=50), []
    (adapter,) = learned(
        tiny_model, [run], method, captured=True, observers=[lambda key, line: lines.append(line)]
    )
    assert failed_at(adapter) == 1
    assert lines == [{"step": 2, "failed_at": 1}]
    assert bool(adapter.vectors.isfinite().all())


class NothingWaits(TorchDispatchMode):
    """Refuses what reads values on the host, has a shape that depends on values, or copies to the
    device: none of it can be captured."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "lift_fresh")

    calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.calls += 1
        name = func.overloadpacket.__name__
        assert name not in self.REFUSED, f"{name} inside the captured function"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_nothing_in_the_function_waits_for_the_device(
    tiny_model: Model,
    sixteen: Sequence[TrainingRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    model = tiny_model if kind == "sd" else load_model(write_tiny_xl_folder(tmp_path / "xl"))
    inner, modes = CapturedStep.function, []

    def watched(self: CapturedStep) -> None:
        with NothingWaits() as mode:  # type: ignore[no-untyped-call]
            inner(self)
        modes.append(mode)

    monkeypatch.setattr(CapturedStep, "function", watched)
    for method in METHODS.values():
        learned(model, sixteen[:2], replace(method, steps=1), captured=True)
    assert len(modes) == len(METHODS)
    assert min(mode.calls for mode in modes) > 500


def test_checkpointing_is_refused(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    with pytest.raises(UserError, match="captured step and checkpointing"):
        learned(tiny_model, [run_of(concept)], METHODS["lora"], captured=True, checkpointing=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", METHODS)
def test_a_recorded_graph_equals_the_eager_training(
    tiny_model_folder: Path, sixteen: Sequence[TrainingRun], kind: str
) -> None:
    model = load_model(tiny_model_folder, "cuda")
    eager, captured = (
        learned(model, sixteen[:4], METHODS[kind], captured=each) for each in (False, True)
    )
    assert_equal(eager, captured)
