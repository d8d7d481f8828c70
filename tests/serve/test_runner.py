"""What is at work: started, watched, stopped, killed, gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from starlette.testclient import TestClient

from safezone.audit.audit import EXPECTED, read_progress
from safezone.cli import _find
from safezone.commands.arguments import parse
from safezone.errors import UserError
from safezone.images import write_png
from safezone.personalize.checkpoints import append_log, log_path
from safezone.serve import runner
from safezone.serve.app import Pages
from safezone.serve.runner import (
    DONE,
    FAILED,
    READY,
    RUN,
    RUNNING,
    STOPPED,
    Choices,
    Runner,
    Status,
    commands,
    report_path,
)
from safezone.serve.session import Session, new_example, open_session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return new_example(tmp_path, "HattedMug")


def _python(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    """Runs these in place of the commands."""
    lines = [[sys.executable, "-c", script, "audit"] for script in scripts]
    monkeypatch.setattr(runner, "commands", lambda session, choices, more: lines)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _answer(session: Session, status: int = 0) -> str:
    """A script that ends as an audit does."""
    path = session.audit_folder / "audit.json"
    return f"open({str(path)!r}, 'w').write('{{\"verdicts\": [\"It held.\"]}}'); exit({status})"


SLOW = "import time; time.sleep(100)"


def test_an_audit_is_started_once_stopped_and_gone_on_with(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Runner(["mini"])
    assert work.status(session).state == READY
    _python(monkeypatch, SLOW, f"open({str(session.folder / 'second')!r}, 'w')")
    work.start(session, Choices())
    _until(lambda: "process" in json.loads((session.folder / RUN).read_text()))
    (pid, _) = json.loads((session.folder / RUN).read_text())["process"]
    assert work.status(session).state == RUNNING
    with pytest.raises(UserError, match="stop it first"):
        work.start(session, Choices())
    with pytest.raises(UserError, match="stop it first"):
        work.require_idle(session)
    work.stop(session)
    assert work.status(session).state == STOPPED
    assert not psutil.pid_exists(pid)
    assert not (session.folder / "second").exists()
    _python(monkeypatch, "", _answer(session, 1))
    session.audit_folder.mkdir()
    (session.audit_folder / "report.html").write_text("")
    with pytest.raises(UserError, match="not finished"):
        report_path(session)
    work.start(session, Choices(level=8))
    _until(lambda: work.status(session).state != RUNNING)
    status = work.status(session)
    assert (status.state, list(status.verdicts)) == (DONE, ["It held."])
    assert status.choices == Choices(level=8)
    assert report_path(session).is_file()
    _python(monkeypatch, "1 / 0")
    work.start(session, Choices())  # the earlier answer does not count
    _until(lambda: work.status(session).state != RUNNING)
    assert work.status(session).state == FAILED
    assert work.status(session).sentence == "ZeroDivisionError: division by zero"


def test_the_end_of_the_page_ends_what_is_at_work(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _python(monkeypatch, SLOW)
    work = Runner(["mini"])
    app = Pages(session.folder.parent, work).app()
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post(f"/s/{session.name}/start", json={}).status_code == 200
        _until(lambda: "process" in json.loads((session.folder / RUN).read_text()))
        (pid, _) = json.loads((session.folder / RUN).read_text())["process"]
    assert not psutil.pid_exists(pid)
    assert work.status(session).state == STOPPED


def test_what_is_left_is_told_by_the_estimate_and_then_by_the_pace(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [f"generate/{i}" for i in range(10)]
    stages = {"generate": {"places": places, "seconds": 100.0}}
    session.audit_folder.mkdir()
    expected = session.audit_folder / EXPECTED
    expected.write_text(json.dumps({"stages": stages, "steps": {}, "begun": 0.0}))
    began = time.time() - 60
    record = {"choices": {}, "state": RUNNING, "process": [os.getpid(), began]}
    monkeypatch.setattr(runner, "_process", lambda session: psutil.Process())
    work = Runner(["mini"])

    def seen(**changes: Any) -> Status:
        (session.folder / RUN).write_text(json.dumps({**record, **changes}))
        return work.status(session)

    assert re.fullmatch(r"protecting the pictures, 1 min \d s so far", seen(verb="poison").doing)
    assert seen(verb="audit").left == pytest.approx(100)
    (session.audit_folder / "work" / "generate" / "0").mkdir(parents=True)
    again = {"stages": stages, "steps": {}, "begun": 0.1}  # that tenth is of an earlier start
    expected.write_text(json.dumps(again))
    assert seen(verb="audit").left == pytest.approx(90)
    expected.write_text(json.dumps({**again, "begun": 0.0}))
    os.utime(expected, (time.time() - 30, time.time() - 30))
    assert seen(verb="audit").left == pytest.approx(270, rel=0.1)  # a tenth took half a minute
    os.utime(expected, (began - 5, began - 5))
    assert seen(verb="audit").doing == "opening the model"


def test_what_is_started_asks_no_hub(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    _python(monkeypatch, "import os; print(os.environ['HF_HUB_OFFLINE']); exit(2)")
    work = Runner(["mini"])
    work.start(session, Choices())
    _until(lambda: work.status(session).state == FAILED)
    assert work.status(session).sentence == "1"


def test_what_a_command_refuses_is_told_without_paths(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = session.folder / "clean" / "00.png"
    _python(monkeypatch, f"import sys; print('safezone: {place} is odd', file=sys.stderr); exit(2)")
    work = Runner(["mini"])
    work.start(session, Choices())
    _until(lambda: work.status(session).state != RUNNING)
    assert work.status(session).state == FAILED
    assert work.status(session).sentence == "clean/00.png is odd"


def test_a_killed_command_and_a_killed_server_are_seen(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _python(monkeypatch, SLOW)
    work = Runner(["mini"])
    work.start(session, Choices())
    _until(lambda: "process" in json.loads((session.folder / RUN).read_text()))
    record = json.loads((session.folder / RUN).read_text())
    os.kill(record["process"][0], signal.SIGKILL)
    _until(lambda: work.status(session).state != RUNNING)
    assert work.status(session).state == STOPPED

    with subprocess.Popen([sys.executable, "-c", SLOW]) as left:  # of a server that was killed
        record["process"] = [left.pid, psutil.Process(left.pid).create_time()]
        (session.folder / RUN).write_text(json.dumps(record))
        assert Runner(["mini"]).status(session).state == RUNNING
        Runner(["mini"]).stop(session)
        assert not psutil.pid_exists(left.pid)
    assert Runner(["mini"]).status(session).state == STOPPED
    record["process"] = [os.getpid(), 1.0]  # another program has the number now
    (session.folder / RUN).write_text(json.dumps(record))
    assert Runner(["mini"]).status(session).state == STOPPED


def test_the_commands_are_those_of_the_command_line(session: Session) -> None:
    choices = Choices("mini-v", ("ti", "lora"), "standard-1", "ea", 8)
    protect, audit = commands(session, choices, ["--threads", "1"])
    parsed = []
    for command in (protect, audit):
        assert command[:3] == [sys.executable, "-m", "safezone"]
        found, name, rest = _find(command[3:])
        parsed.append(parse(found, rest, name))
    assert (parsed[0].folder, parsed[0].out) == (session.originals, session.protected)
    assert (parsed[0].poison, parsed[0].poisoning.kappa) == ("ea", 8 / 255)
    assert (parsed[1].protected, parsed[1].clean) == (session.protected, session.originals)
    assert (parsed[1].methods, parsed[1].attacker) == (("ti", "lora"), "standard-1")
    assert [each.model for each in parsed] == ["mini-v"] * 2
    assert [each.machine.threads for each in parsed] == [1, 1]


def test_a_protection_is_made_again_when_what_it_rests_on_changes(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _python(monkeypatch, _answer(session))
    session.audit_folder.mkdir()
    work = Runner(["mini"])

    def audited(choices: Choices) -> bool:
        """Whether the protection is still there afterwards."""
        if not session.protected.exists():
            new_example(session.folder.parent / "other", "HattedMug")
            (session.folder.parent / "other" / "hattedmug" / "clean").rename(session.protected)
            (session.folder.parent / "other" / "hattedmug" / "session.json").unlink()
            (session.folder.parent / "other" / "hattedmug").rmdir()
            for path in session.protected.glob("*.png"):
                write_png(path, np.asarray(Image.open(path)) ^ 8)
        work.start(session, choices)
        _until(lambda: work.status(session).state == DONE)
        return session.protected.exists()

    assert audited(Choices())
    assert audited(Choices(suite="standard-1"))
    assert not audited(Choices(level=4))
    assert audited(Choices(level=4))
    session.paint(0, session.mask(1))
    assert not session.protected.exists()
    assert open_session(session.folder.parent, session.name) == session


def test_progress_is_told_by_time_from_the_folder(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    stages = {
        "personalize": {"places": ["personalize/a", "personalize/b"], "seconds": 90.0},
        "generate": {"places": ["generate/a"], "seconds": 10.0},
    }
    (tmp_path / EXPECTED).write_text(json.dumps({"stages": stages, "steps": {"a": 200, "b": 200}}))
    work = tmp_path / "work"

    def seen() -> tuple[float, str]:
        progress = read_progress(tmp_path)
        assert progress is not None and progress.seconds == 100
        return round(progress.share, 6), progress.stage

    assert seen() == (0.0, "personalize")
    log = log_path(work / "training" / "group", "a")
    log.parent.mkdir(parents=True)
    for step in (10, 100):
        append_log(log, {"step": step})
    with log.open("a") as file:
        file.write('{"step": 1')  # another process is writing
    assert seen() == (0.225, "personalize")
    for name in ("personalize/a", "personalize/b"):
        (work / name).mkdir(parents=True)
    assert seen() == (0.9, "generate")
    (work / "generate" / "a").mkdir(parents=True)
    assert seen() == (1.0, "")
