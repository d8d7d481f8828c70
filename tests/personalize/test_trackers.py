from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest

from safezone.concepts import Concept
from safezone.errors import UserError
from safezone.models import Model
from safezone.personalize import LoRA, TrainingRun, train
from safezone.personalize.checkpoints import Tracker, log_path, trackers_of


class Memory(accelerate.tracking.GeneralTracker):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Keeps what it is told."""

    name = "memory"
    requires_logging_directory = True
    told: list[tuple[int, dict[str, Any]]] = []  # noqa: RUF012

    def __init__(self, run_name: str, logging_dir: str, **settings: Any) -> None:
        super().__init__()

    @property
    def tracker(self) -> list[Any]:
        return self.told

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append((0, values))

    def log(self, values: dict[str, Any], step: int | None = None, **settings: Any) -> None:
        self.told.append((step or 0, values))


def test_a_tracker_is_told_what_the_log_is_told(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "memory", Memory)
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: ["memory"])
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", ["memory"])
    run = run_of(concept)
    method = replace(LoRA(steps=4), log_every=2)
    tracker = Tracker("memory", tmp_path, method.content())
    train(tiny_model, [run], method, tmp_path, progress=False, observers=[tracker])
    tracker.close()
    assert Memory.told[0][1]["rank"] == 4
    assert [step for step, _ in Memory.told[1:]] == [2, 4]
    assert len(log_path(tmp_path, run.key).read_text().splitlines()) == 2
    assert set(Memory.told[1][1]) == {f"{run.key}/{name}" for name in ("loss", "norm", "lr")}


@pytest.mark.parametrize(
    ("name", "words"), [("abacus", "no tracker 'abacus'"), ("aim", "not installed")]
)
def test_unknown_and_missing_trackers_are_told(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        trackers_of(name, tmp_path, {})
    assert trackers_of(None, tmp_path, {}) == []
