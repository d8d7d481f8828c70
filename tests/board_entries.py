"""Entries of a leaderboard whose numbers are known."""

from typing import Any

from safezone.audit.entry import (
    BoardEntry,
    Change,
    Claimed,
    Code,
    Hashes,
    headline_numbers,
    training_names,
)
from safezone.audit.suites import OBJECT_SUITES

KEY = "0123456789abcdef" * 4
SUITE = OBJECT_SUITES["objects-quick-1"]


def make_entry(
    name: str = "adm+", level: float = 0.4, attack: str | None = None, **changes: Any
) -> BoardEntry:
    """An entry whose numbers agree with each other."""
    form = "protection" if attack is None else "attack"
    names = training_names(SUITE, form)
    measured = {
        concept: {
            training: (round(level + 0.01 * place + 0.1 * number, 6),) * SUITE.seeds
            for number, training in enumerate(names)
        }
        for place, concept in enumerate(SUITE.concepts)
    }
    values: dict[str, Any] = {
        "form": form,
        "suite": SUITE.name,
        "model": "mini",
        "seed": 0,
        "poison": Code(name, KEY),
        "attack": None if attack is None else Code(attack, KEY),
        "measured": measured,
        "changes": {concept: Change(16, 30.0) for concept in SUITE.concepts},
        "hashes": Hashes(KEY, KEY, KEY, KEY, dict.fromkeys(SUITE.concepts, KEY)),
        "versions": {"safezone": "0.1.0"},
        "claimed": Claimed(0.1, 0.2, "a paper"),
        **headline_numbers(measured, names),
    }
    return BoardEntry(**values | changes)
