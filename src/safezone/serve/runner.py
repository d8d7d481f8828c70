"""Starts and stops the audit of a session: the commands of the command line, one after the other.

What is done lies in the session's folder, so a stopped or killed audit goes on from there.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Annotated, Any, Final

import psutil
from pydantic import Field, TypeAdapter, ValidationError

from safezone.audit.audit import AUDIT, EXPECTED, read_progress
from safezone.audit.suites import suite as suite_named
from safezone.errors import UserError
from safezone.fields import Closed, located
from safezone.files import write_json
from safezone.lab.training import method_named
from safezone.poisons import poison
from safezone.reading import read_json
from safezone.results.folder import PAGE
from safezone.results.meaning import duration_text
from safezone.serve.session import Session
from safezone.serve.uploads import require_pictures, without_path

RUN: Final = "run.json"
"""In a session's folder: what was chosen, how it stands, and the process that works on it."""
LOG: Final = "log.txt"
"""What the commands say."""
READY, RUNNING, STOPPED, FAILED, DONE = "ready", "running", "stopped", "failed", "done"
_PATIENCE: Final = 10.0
"""Seconds until a process that was asked to end is killed."""
_PACE: Final = 0.05
"""Share of the work from which on the pace so far tells the rest."""


@dataclass(frozen=True)
class Choices(Closed):
    """What is asked of an audit. ``poison`` and ``level`` (of 255): of pictures protected here."""

    model: str = "mini"
    methods: Annotated[tuple[str, ...], Field(min_length=1, max_length=3)] = ("ti",)
    suite: str = "quick-1"
    poison: str = "adm+"
    level: Annotated[int, Field(ge=1, le=64)] = 16

    @property
    def protection(self) -> tuple[str, int, str]:
        """What a protection that is made here rests on."""
        return self.poison, self.level, self.model


def read_choices(sent: object) -> Choices:
    """From what the browser sent; UserError, naming the field, for anything else."""
    try:
        return TypeAdapter(Choices).validate_python(sent)
    except ValidationError as error:
        raise UserError(located(error, "what was sent")) from error


@dataclass(frozen=True)
class Status:
    """How a session stands. ``share``: in [0, 1]; ``left``: seconds, where they can be told.

    ``doing``: what happens now; ``sentence``: what went wrong; ``verdicts``: of a finished audit.
    """

    state: str
    doing: str = ""
    share: float = 0.0
    left: float | None = None
    sentence: str = ""
    verdicts: Sequence[str] = ()
    choices: Choices = field(default_factory=Choices)


_DOING: Final = {
    "clean": "reading the pictures",
    "poison": "reading the pictures",
    "preprocess": "preparing the pictures",
    "personalize": "training",
    "generate": "drawing what was learned",
    "score": "comparing",
}
"""What the page calls each stage."""


def commands(session: Session, choices: Choices, more: Sequence[str] = ()) -> list[list[str]]:
    """What is run. ``more``: options of ``safezone serve`` that all commands get."""
    originals, protected = str(session.originals), str(session.protected)
    audit = ["audit", protected, "--out", str(session.audit_folder), "--attacker", choices.suite]
    if session.originals is not None:
        audit += ["--clean", originals]
    for method in choices.methods:
        audit += ["--method", method]
    lines = [audit]
    if session.protects:
        own = ["--poison", choices.poison, "--kappa", f"{choices.level}/255"]
        lines.insert(0, ["poison", originals, "--out", protected, *own])
    program, model = [sys.executable, "-m", "safezone"], ["--model", choices.model, *more]
    return [[*program, *line, *model] for line in lines]


class Runner:
    """At most one audit at a time. ``models``: that may be chosen; ``more``: see ``commands``."""

    def __init__(self, models: Sequence[str], more: Sequence[str] = ()) -> None:
        self.models, self._more = tuple(models), tuple(more)
        self._lock, self._stop = Lock(), Event()
        self._thread: Thread | None = None
        self._session: Session | None = None

    def start(self, session: Session, choices: Choices) -> None:
        """Starts or goes on; UserError for a wrong choice or picture, or while one is at work."""
        if choices.model not in self.models:
            raise UserError(
                f"the model {choices.model!r} was not given to `safezone serve`; choose one of: "
                f"{', '.join(self.models)}"
            )
        for method in choices.methods:
            method_named(method)
        suite_named(choices.suite)
        poison(choices.poison)
        with self._lock:
            for each in (self._session, session):
                if each is not None:
                    self.require_idle(each)
            if self._thread is not None:
                self._thread.join()  # it has written its last word
            if self.choices(session).protection != choices.protection:
                session.forget_protection()
            try:
                session.require_masks_of_all_or_none()
                require_pictures(session.folder)
            except UserError as error:
                raise without_path(error, session.folder) from error
            self._stop.clear()
            self._session = session
            write_json(session.folder / RUN, {"choices": asdict(choices), "state": RUNNING})
            self._thread = Thread(target=self._work, args=(session, choices), daemon=True)
            self._thread.start()

    def _work(self, session: Session, choices: Choices) -> None:
        log, answer = session.folder / LOG, session.audit_folder / AUDIT
        log.write_bytes(b"")
        answer.unlink(missing_ok=True)  # that of an earlier start
        state = DONE
        for command in commands(session, choices, self._more):
            status = self._call(command, session, log)
            if self._stop.is_set() or status < 0:  # asked to, or killed by somebody else
                state = STOPPED
                break
            if status > 1 or (status and not answer.is_file()):
                state = FAILED  # 1 with an answer: some trainings failed, which the page tells
                break
        sentence = _last_sentence(log, session) if state == FAILED else ""
        _note(session, state=state, sentence=sentence, process=None)

    def _call(self, command: Sequence[str], session: Session, log: Path) -> int:
        alone = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        with log.open("ab") as out:
            child = psutil.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=alone
            )
        with suppress(psutil.Error):  # of one that has ended already
            _note(session, process=[child.pid, child.create_time()], verb=command[3])
        while (status := child.poll()) is None:
            if self._stop.wait(0.1):
                _end(child)
        return int(status)

    def require_idle(self, session: Session) -> None:
        """Raises UserError while the session is at work: its files must stay as they are."""
        if self.status(session).state == RUNNING:
            raise UserError(f"{session.title} is being audited; stop it first")

    def stop(self, session: Session) -> None:
        """Ends the audit, also one that an earlier server began; what is done is kept."""
        thread = self._thread
        if thread is not None and thread.is_alive() and self._session == session:
            self._stop.set()
            thread.join()
        elif (process := _process(session)) is not None:
            _end(process)
            _note(session, state=STOPPED, process=None)

    def close(self) -> None:
        if self._session is not None:
            self.stop(self._session)

    def choices(self, session: Session) -> Choices:
        """What was chosen last, else what the page begins with."""
        told = _record(session).get("choices")
        return Choices(self.models[0]) if told is None else read_choices(told)

    def status(self, session: Session) -> Status:
        """How the session stands, from its folder."""
        record, choices = _record(session), self.choices(session)
        state = str(record.get("state", READY))
        mine = self._session == session and self._thread is not None and self._thread.is_alive()
        if state == RUNNING and not mine and _process(session) is None:
            state = STOPPED  # its server was killed
        if state == RUNNING:
            return _running(session, record, choices)
        verdicts: list[str] = []
        if state == DONE:
            verdicts = list(read_json(session.audit_folder / AUDIT)["verdicts"])
        sentence = str(record.get("sentence", ""))
        return Status(state, "", _share(session), None, sentence, verdicts, choices)


def _running(session: Session, record: dict[str, Any], choices: Choices) -> Status:
    if record.get("verb") == "poison":
        began = record["process"][1]
        doing = f"protecting the pictures, {duration_text(time.time() - began)} so far"
        return Status(RUNNING, doing, choices=choices)
    progress, process = read_progress(session.audit_folder), record.get("process")
    told = 0.0 if progress is None else (session.audit_folder / EXPECTED).stat().st_mtime
    if progress is None or process is None or told < process[1]:  # that of an earlier start
        return Status(RUNNING, "opening the model", choices=choices)
    if not progress.stage:
        return Status(RUNNING, "writing the page", choices=choices)
    share, done = progress.share, progress.share - progress.begun
    elapsed = time.time() - told
    left = elapsed / done if done > _PACE else progress.seconds
    left *= 1 - share
    return Status(RUNNING, _DOING[progress.stage], share, left, choices=choices)


def report_path(session: Session) -> Path:
    """The page of a finished audit; UserError before."""
    path = session.audit_folder / PAGE
    if _record(session).get("state") != DONE or not path.is_file():
        raise UserError("the audit is not finished; start it, or let it go on")
    return path


def _share(session: Session) -> float:
    progress = read_progress(session.audit_folder)
    return 0.0 if progress is None else progress.share


def _record(session: Session) -> dict[str, Any]:
    path = session.folder / RUN
    return read_json(path) if path.is_file() else {}


def _note(session: Session, **changes: Any) -> None:
    """Puts changes into the session's record; nothing where the session was removed meanwhile."""
    if record := _record(session):
        write_json(session.folder / RUN, {**record, **changes})


def _process(session: Session) -> psutil.Process | None:
    """The process that works on the session, whoever started it."""
    told = _record(session).get("process")
    if not isinstance(told, list):
        return None
    try:
        process = psutil.Process(int(told[0]))
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return process if alive and process.create_time() == told[1] else None
    except psutil.Error:
        return None


def _end(process: psutil.Process) -> None:
    """Asks a process to end, and kills it when it does not."""
    try:
        process.terminate()
        process.wait(_PATIENCE)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def _last_sentence(log: Path, session: Session) -> str:
    """What the command said last, for the page."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix("safezone: ") for line in lines if line.startswith("safezone: ")]
    sentence = told[-1] if told else next((line for line in reversed(lines) if line.strip()), "")
    return str(without_path(UserError(sentence), session.folder))
