"""What is let in: requests of the page itself, of bounded size."""

import json
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safezone.errors import UserError
from safezone.serve.uploads import MOST_SENT

_MOST_PAINTED: Final = 4_000_000
"""Bytes of a painted mask, and of choices."""


class Bounded:
    """Refuses what other pages send, and more bytes than all uploads together may have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, seen = Request(scope), 0
        foreign = _foreign(request)
        length = request.headers.get("content-length", "0")
        if foreign or not length.isdecimal() or int(length) > MOST_SENT:
            text = "this page may not ask for that" if foreign else _too_much()
            await JSONResponse({"error": text}, 403 if foreign else 413)(scope, receive, send)
            return

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MOST_SENT:
                raise UserError(_too_much())
            return message

        await self._app(scope, bounded, send)


def _too_much() -> str:
    return f"these files have more than the {MOST_SENT / 1e6:.0f} MB allowed; send fewer or smaller"


def _foreign(request: Request) -> bool:
    """Whether another site's page sent it: a browser says so of all that may change something."""
    origin = request.headers.get("origin")
    if request.method in ("GET", "HEAD") or origin is None:
        return False
    return urlsplit(origin).netloc != request.headers.get("host")


async def read_body(request: Request) -> bytes:
    """What was sent, of bounded size; UserError for more."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_PAINTED:
            raise UserError("that is more than a painted mask has; load the page again")
        parts.append(part)
    return b"".join(parts)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; UserError for anything else."""
    try:
        value = json.loads(await read_body(request))
    except (ValueError, RecursionError) as error:
        raise UserError("what was sent is no JSON; load the page again") from error
    if not isinstance(value, dict):
        raise UserError("what was sent is no JSON object; load the page again")
    return value
