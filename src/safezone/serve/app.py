"""The page's addresses: each reads what was sent, makes one call, and answers."""

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeAlias

import jinja2
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

from safezone.audit.cases import PROTECTED
from safezone.audit.suite import SUITES
from safezone.concepts.folder import MOST_IMAGES
from safezone.errors import UserError
from safezone.miniworld import novel_concepts
from safezone.models import BUILTIN
from safezone.personalize import METHODS
from safezone.poisons.table import POISONS
from safezone.results.meaning import MINI_LIMITS, duration_text
from safezone.serve.guard import Bounded, read_body, read_object
from safezone.serve.runner import Runner, read_choices, report_path
from safezone.serve.session import Session, new_example, new_folder, open_session, sessions
from safezone.serve.uploads import (
    MOST_BYTES,
    MOST_SENT,
    ORIGINALS,
    PARTS,
    Upload,
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
Call: TypeAlias = Callable[[Session, Request], Response]


class Pages:
    """All addresses of one folder of sessions."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self._root, self._runner = root, runner
        self._one = Lock()  # one upload is decoded at a time: pictures may be large
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("safezone.serve", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

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
            Route(f"{at}/mask/{{index:int}}", self.paint, methods=["PUT"]),
            Route(f"{at}/masks", self.of(self.masks), methods=["POST"]),
            Route(f"{at}/start", self.start, methods=["POST"]),
            Route(f"{at}/stop", self.of(self.stop), methods=["POST"]),
            Route(f"{at}/remove", self.of(self.remove), methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {
            UserError: lambda request, error: self.told(request, str(error), 400),
            HTTPException: lambda request, error: self.told(
                request, str(error.detail), error.status_code
            ),
            ClientDisconnect: lambda request, error: self.told(request, "cut short", 400),
        }
        middleware = [
            Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"]),
            Middleware(Bounded),
        ]

        @asynccontextmanager
        async def until_the_end(app: Starlette) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self._runner.close)

        return Starlette(
            routes=routes,
            middleware=middleware,
            exception_handlers=handlers,
            lifespan=until_the_end,
        )

    def of(self, call: Call) -> Callable[[Request], Response]:
        """The call with the session that the address names."""

        def answer(request: Request) -> Response:
            return call(open_session(self._root, request.path_params["name"]), request)

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
        """The page's style or script."""
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
        """Stores what was dropped."""
        async with request.form(max_files=10 * MOST_IMAGES, max_fields=10) as form:
            folder = await run_in_threadpool(self._stored, form)
        return JSONResponse({"go": f"/s/{folder.name}"})

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
        """Stores a built-in concept."""
        name = str((await read_object(request)).get("concept", ""))

        def make() -> Session:
            with self._one:
                return new_example(self._root, name)

        return JSONResponse({"go": f"/s/{(await run_in_threadpool(make)).name}"})

    def session(self, session: Session, request: Request) -> Response:
        """The page of one folder's pictures."""
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
        """How it stands; the page asks again and again."""
        status = self._runner.status(session)
        left = None if status.left is None else duration_text(status.left)
        made = [
            session.mask_path(i).is_file() for i, _ in enumerate(session.pictures(session.masked))
        ]
        return _json({**asdict(status), "left": left, "masks": made})

    def report(self, session: Session, request: Request) -> Response:
        """The audit's page, as it was written."""
        return FileResponse(report_path(session), headers=_SAFE | _REPORT)

    def picture(self, session: Session, request: Request) -> Response:
        """One picture."""
        folders = {PROTECTED: session.protected, ORIGINALS: session.originals}
        folder = folders.get(request.path_params["part"]) or session.protected
        png = session.picture(folder, request.path_params["index"])
        return Response(png, media_type="image/png", headers=_SAFE)

    def mask(self, session: Session, request: Request) -> Response:
        """The mask of one picture."""
        png = session.mask(request.path_params["index"])
        return Response(png, media_type="image/png", headers=_SAFE)

    async def paint(self, request: Request) -> Response:
        """Keeps a painted mask."""
        png = await read_body(request)
        index = request.path_params["index"]

        def keep() -> None:
            session = open_session(self._root, request.path_params["name"])
            with self._one:
                self._runner.require_idle(session)
                session.paint(index, png)

        await run_in_threadpool(keep)
        return _json({})

    def masks(self, session: Session, request: Request) -> Response:
        """Draws the masks that are missing."""
        with self._one:
            self._runner.require_idle(session)
            return _json({"told": session.find_objects()})

    async def start(self, request: Request) -> Response:
        """Starts, or goes on."""
        choices = read_choices(await read_object(request))

        def begin() -> None:
            session = open_session(self._root, request.path_params["name"])
            with self._one:
                self._runner.start(session, choices)

        await run_in_threadpool(begin)
        return _json({})

    def stop(self, session: Session, request: Request) -> Response:
        """Stops; what is done is kept."""
        self._runner.stop(session)
        return _json({})

    def remove(self, session: Session, request: Request) -> Response:
        """Removes the session's folder."""
        with self._one:
            self._runner.require_idle(session)
            session.remove()
        return _json({"go": "/"})


def _json(value: Mapping[str, Any]) -> Response:
    return JSONResponse(dict(value), headers=_SAFE)


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
