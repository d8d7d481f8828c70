"""The entries in leaderboard/ hold on this machine: one concept of each is measured again."""

import os
import pickle
from functools import partial
from pathlib import Path

import pytest

from safezone.audit import evaluate as audit_evaluate
from safezone.audit import verify as audit_verify
from safezone.audit.entry import read_entry
from safezone.audit.evaluate import Found, Subject, Trial
from safezone.audit.leaderboard import boards, read_entries
from safezone.cli import main
from safezone.commands import entries
from safezone.commands.arguments import parse
from safezone.files import digest
from safezone.lab.stage import job

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


def test_processes_that_help_open_the_same_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FOLDER / "ea.json"
    entry = read_entry(path)
    tried: list[Trial] = []

    def say(trial: Trial, **_: object) -> dict[Subject, Found]:
        tried.append(trial)
        return dict.fromkeys(trial.wanted, Found(entry.measured, entry.changes))

    monkeypatch.setattr(audit_evaluate, "evaluate", say)
    monkeypatch.setattr(audit_verify, "evaluate", say)
    work = ["--work", str(tmp_path / "work")]
    options = parse(
        entries.EvaluateCommand, ["ea", *work, "--suite", entry.suite, "--out", "ea.json"]
    )
    helping = partial(entries._help_to_evaluate, options, 2)
    pickle.loads(pickle.dumps(helping))()
    verifying = parse(entries.VerifyCommand, [str(path), *work])
    names = entry.of.concepts
    helping = partial(entries._help_to_verify, verifying, {path: entry}, 0, names, 2)
    pickle.loads(pickle.dumps(helping))()
    for trial in tried:
        ((subject, concepts),) = trial.wanted.items()
        assert (subject.poison.name, concepts) == ("ea", names)
        assert trial.lab.sharers == 2
    folders = [trial.lab.folder.relative_to(tmp_path / "work").name for trial in tried]
    assert folders == ["work", "verified"]  # a verification reads nothing of the evaluation
    runs = [trial.run(names[0], "ea", "nominal") for trial in tried]
    places = {job(t.lab, run).of["score"].place.name for t, run in zip(tried, runs, strict=True)}
    assert len(tried) == 2 and len(places) == 1


@pytest.mark.slow
@pytest.mark.parametrize("share", range(WORKERS))
def test_every_entry_is_verified(
    share: int, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each half in one pass, an attack beside its protection, whose runs it shares; in a folder in
    which tests that run beside each other share what both halves need. The concept is drawn by
    the content of all entries."""
    half = -(-len(ENTRIES) // WORKERS)
    files = [str(path) for path in ENTRIES[share * half : (share + 1) * half]]
    seed = int(digest(*(path.read_bytes() for path in ENTRIES))[:6], 16)
    code = [word for file in CODE for word in ("--code", str(file))]
    arguments = ["verify", *files, *code, "--seed", str(seed), "--threads", "1"]
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.getbasetemp()
    status = main([*arguments, "--work", str((base if alone else base.parent) / "verified")])
    said = capsys.readouterr().out
    assert status == 0, said
    assert said.count(": within; of ") == len(files)
