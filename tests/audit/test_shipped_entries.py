"""The entries in leaderboard/ hold on this machine: one concept of each is measured again."""

from pathlib import Path

import pytest

from safezone.audit.entry import read_entry
from safezone.audit.leaderboard import boards, read_entries
from safezone.cli import main
from safezone.files import digest

FOLDER = Path(__file__).parents[2] / "leaderboard"
ENTRIES = sorted(FOLDER.glob("*.json"))
CODE = sorted((FOLDER / "code").glob("*.py"))
"""Files that entries rest on, as their reviewers have read them."""
WORKERS = 2


def test_poisons_of_the_paper_and_newer_ones_have_an_entry() -> None:
    (board,) = boards(read_entries(FOLDER))
    names = {each.entry.poison.name for each in board.standings}
    assert {"adm+", "adm-", "sds+", "sds-", "ea", "da"} < names
    assert len(names) == len(board.standings)
    assert board.attacks


def test_entries_hold_no_code_and_no_pictures() -> None:
    for path in ENTRIES:
        assert path.stat().st_size < 20_000
        assert read_entry(path).claimed.source.isprintable()
    hashes = {digest(file.read_bytes()) for file in CODE}
    for entry in map(read_entry, ENTRIES):
        codes = [entry.poison, *([entry.attack] if entry.attack else [])]
        assert {code.file for code in codes if code.file} <= hashes


@pytest.mark.slow
@pytest.mark.parametrize("share", range(WORKERS))
def test_every_entry_is_verified(
    share: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each half in one pass, an attack beside its protection, whose runs it shares; the concept is
    drawn by the content of the half's entries."""
    half = -(-len(ENTRIES) // WORKERS)
    entries = [str(path) for path in ENTRIES[share * half : (share + 1) * half]]
    seed = int(digest(*(Path(path).read_bytes() for path in entries))[:6], 16)
    code = [word for file in CODE for word in ("--code", str(file))]
    arguments = ["verify", *entries, *code, "--seed", str(seed), "--threads", "1"]
    status = main([*arguments, "--work", str(tmp_path / "work")])
    said = capsys.readouterr().out
    assert status == 0, said
    assert said.count(": within; of ") == len(entries)
