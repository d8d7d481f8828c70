"""The page's addresses: each reads what was sent, makes one call, and answers."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeAlias

import python_multipart  # noqa: F401  starlette reads what is uploaded with it
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from safezone.audit.suites import SUITES
from safezone.concepts.folder import MOST_IMAGES
from safezone.errors import UserError
from safezone.miniworld import novel_concepts
from safezone.models import BUILTIN
from safezone.personalize import METHODS
from safezone.poisons.table import POISONS
from safezone.results.meaning import MINI_LIMITS, duration_text
from safezone.results.page import environment
from safezone.serve.runner import Runner, read_choices, report_path
from safezone.serve.session import Session, new_example, new_folder, open_session, sessions
from safezone.serve.uploads import (
    MOST_BYTES,
    MOST_SENT,
    ORIGINALS,
    PARTS,
    Bounded,
    Upload,
    read_body,
    read_object,
    store,
    without_path,
)

ADDRESS: Final = "127.0.0.1"
"""Nobody but this machine is answered."""
_SAFE: Final[dict[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
}
"""Headers of every answer."""
_REPORT: Final[dict[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'self'"
}
"""The audit's page is one file, whose script and style are in it."""
Call: TypeAlias = Callable[..., Response]


class Pages:
    """All addresses of one folder of sessions."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self._root, self._runner = root, runner
        self._one = Lock()  # one upload is decoded at a time: pictures may be large
        self._templates = environment("safezone.serve")

    def app(self) -> Starlette:
        """The application; its end stops the audit that is at work."""
        at = "/s/{name}"
        routes = [
            Route("/", self.home),
            Route("/new", self.new, methods=["POST"]),
            Route("/example", self.example, methods=["POST"]),
            Route("/serve.css", partial(self.asset, "serve.css")),
            Route("/serve.js", partial(self.asset, "serve.js")),
            Route(at, self.of(self.session)),
            Route(f"{at}/state", self.of(self.state)),
            Route(f"{at}/report", self.of(self.report)),
            Route(f"{at}/picture/{{part}}/{{index:int}}", self.of(self.picture)),
            Route(f"{at}/mask/{{index:int}}", self.of(self.mask)),
            Route(f"{at}/mask/{{index:int}}", self.of(self.paint, read_body), methods=["PUT"]),
            Route(f"{at}/mask/{{index:int}}", self.of(self.remove_mask), methods=["DELETE"]),
            Route(f"{at}/masks", self.of(self.masks), methods=["POST"]),
            Route(f"{at}/start", self.of(self.start, read_object), methods=["POST"]),
            Route(f"{at}/stop", self.of(self.stop), methods=["POST"]),
            Route(f"{at}/remove", self.of(self.remove), methods=["POST"]),
        ]

        def wrong(request: Request, error: Exception) -> Response:
            if isinstance(error, HTTPException):
                return self.told(request, str(error.detail), error.status_code)
            text = "cut short" if isinstance(error, ClientDisconnect) else str(error)
            return self.told(request, text, 400)

        @asynccontextmanager
        async def until_the_end(app: Starlette) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self._runner.close)

        return Starlette(
            routes=routes,
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"]),
                Middleware(Bounded),
            ],
            exception_handlers=dict.fromkeys((UserError, HTTPException, ClientDisconnect), wrong),
            lifespan=until_the_end,
        )

    def of(
        self, call: Call, read: Callable[[Request], Awaitable[Any]] | None = None
    ) -> Callable[[Request], Awaitable[Response]]:
        """The call with the session that the address names, and with what ``read`` finds sent."""

        async def answer(request: Request) -> Response:
            sent = () if read is None else (await read(request),)

            def of_session() -> Response:
                session = open_session(self._root, request.path_params["name"])
                return call(session, request, *sent)

            return await run_in_threadpool(of_session)

        return answer

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        html = self._templates.get_template(template).render(**values)
        return HTMLResponse(html, status, headers=_SAFE)

    def told(self, request: Request, sentence: str, status: int) -> Response:
        """What is wrong: as a page for whoever opens an address, else as JSON for the script."""
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return self._page("told.html.j2", status=status, sentence=sentence)
        return JSONResponse({"error": sentence}, status, headers=_SAFE)

    def asset(self, name: str, request: Request) -> Response:
        return FileResponse(Path(__file__).with_name(name), headers=_SAFE)

    def home(self, request: Request) -> Response:
        """The first page: new pictures, an example, earlier ones."""
        return self._page(
            "home.html.j2",
            sessions=[(each, self._standing(each)) for each in sessions(self._root)],
            concepts=[each.name for each in novel_concepts()],
            root=self._root.absolute(),
            most={"images": MOST_IMAGES, "bytes": MOST_BYTES, "sent": MOST_SENT},
        )

    def _standing(self, session: Session) -> str:
        try:
            status = self._runner.status(session)
        except UserError as error:
            return str(without_path(error, session.folder))
        return ": ".join([status.state, *status.verdicts[:1]])

    async def new(self, request: Request) -> Response:
        async with request.form(max_files=10 * MOST_IMAGES, max_fields=10) as form:
            folder = await run_in_threadpool(self._stored, form)
        return _json({"go": f"/s/{folder.name}"})

    def _stored(self, form: FormData) -> Path:
        uploads = [
            Upload(part, file.filename or "", file.file)
            for part in PARTS
            for file in form.getlist(part)
            if isinstance(file, UploadFile) and (file.filename or file.size)
        ]
        title = str(form.get("title", ""))
        with self._one:
            folder = new_folder(self._root, title)
            store(folder, uploads, title, str(form.get("class_word", "")))
        return folder

    async def example(self, request: Request) -> Response:
        name = str((await read_object(request)).get("concept", ""))

        def make() -> Session:
            with self._one:
                return new_example(self._root, name)

        return _json({"go": f"/s/{(await run_in_threadpool(make)).name}"})

    def session(self, session: Session, request: Request) -> Response:
        return self._page(
            "session.html.j2",
            session=session,
            choices=self._runner.choices(session),
            pictures=[path.name for path in session.pictures(session.masked)],
            part=session.masked.name,
            protected=len(session.pictures(session.protected)),
            models=self._runner.models,
            builtin=set(BUILTIN),
            limits=MINI_LIMITS,
            methods=list(METHODS),
            suites={name: len(suite.attackers) for name, suite in SUITES.items()},
            poisons=list(POISONS),
        )

    def state(self, session: Session, request: Request) -> Response:
        status, count = self._runner.status(session), len(session.pictures(session.masked))
        left = None if status.left is None else duration_text(status.left)
        masks = [session.mask_path(index).is_file() for index in range(count)]
        return _json({**asdict(status), "left": left, "masks": masks})

    def report(self, session: Session, request: Request) -> Response:
        return FileResponse(report_path(session), headers=_SAFE | _REPORT)

    def picture(self, session: Session, request: Request) -> Response:
        part = session.originals if request.path_params["part"] == ORIGINALS else None
        return _png(session.picture(part or session.protected, request.path_params["index"]))

    def mask(self, session: Session, request: Request) -> Response:
        return _png(session.mask(request.path_params["index"]))

    def paint(self, session: Session, request: Request, png: bytes) -> Response:
        with self._one:
            self._runner.require_idle(session)
            session.paint(request.path_params["index"], png)
        return _json({})

    def remove_mask(self, session: Session, request: Request) -> Response:
        with self._one:
            self._runner.require_idle(session)
            session.remove_mask(request.path_params["index"])
        return _json({})

    def masks(self, session: Session, request: Request) -> Response:
        with self._one:
            self._runner.require_idle(session)
            return _json({"told": session.find_objects()})

    def start(self, session: Session, request: Request, sent: Mapping[str, Any]) -> Response:
        choices = read_choices(sent)
        with self._one:
            self._runner.start(session, choices)
        return _json({})

    def stop(self, session: Session, request: Request) -> Response:
        self._runner.stop(session)
        return _json({})

    def remove(self, session: Session, request: Request) -> Response:
        with self._one:
            self._runner.require_idle(session)
            session.remove()
        return _json({"go": "/"})


def _json(value: Mapping[str, Any]) -> Response:
    return JSONResponse(dict(value), headers=_SAFE)


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers=_SAFE)


def listen(port: int) -> socket.socket:
    """The port on this machine's own address; 0 is any free one. UserError when it is taken."""
    try:
        return socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be used ({error}); give another --port") from error


def serve(root: Path, runner: Runner, listening: socket.socket) -> None:
    """Answers until it is interrupted or told to end; then ends what is at work."""
    config = uvicorn.Config(
        Pages(root, runner).app(), log_level="warning", access_log=False, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listening])
