"""The vectors on the way: those that a training had at its marks, whole after a stop."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safezone.errors import UserError
from safezone.models import Model
from safezone.personalize import (
    LoRA,
    TextualInversion,
    TrainingRun,
    read_adapter,
    read_history,
    save_adapter,
    train,
)
from safezone.personalize.adapters import mark_steps

SHORT = TextualInversion(steps=7, learning_rate=5e-3, checkpoint_every=3)


@pytest.mark.parametrize(
    ("steps", "among"),
    [(5000, (100, 500, 900, 1000, 4000)), (2500, (50, 250, 500)), (400, (8, 40, 80)), (7, (1, 7))],
)
def test_the_papers_steps_are_among_the_marks(steps: int, among: tuple[int, ...]) -> None:
    marks = mark_steps(steps)
    assert {0, steps, *among} <= set(marks)
    assert marks == sorted(set(marks))
    assert len(marks) <= 52


def test_the_marks_are_what_the_training_had_there(
    tiny_model: Model, sixteen: Sequence[TrainingRun], tmp_path: Path
) -> None:
    runs, seen = sixteen[6:8], {}
    adapters = train(
        tiny_model,
        runs,
        replace(SHORT, preview_every=1),
        progress=False,
        preview=lambda step, adapters: seen.update({step: [a.vectors for a in adapters]}),
    )
    for r, adapter in enumerate(adapters):
        save_adapter(adapter, tmp_path / str(r))
        history = read_history(tmp_path / str(r))
        assert history.steps.tolist() == list(range(8))
        assert torch.equal(history.at(0)[0], tiny_model.word_vectors("dog")[0])
        for step, vectors in seen.items():
            assert torch.equal(history.at(step), vectors[r])
        assert torch.equal(history.at(7), read_adapter(tmp_path / str(r)).vectors)
        with pytest.raises(UserError, match="No vectors are kept of step 9"):
            history.at(9)


def test_a_training_of_layers_keeps_none(
    tiny_model: Model, sixteen: Sequence[TrainingRun], tmp_path: Path
) -> None:
    (adapter,) = train(tiny_model, sixteen[:1], LoRA(steps=2), progress=False)
    assert adapter.history is None
    save_adapter(adapter, tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_history(tmp_path)
