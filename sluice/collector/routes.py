"""Paths -> handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from sluice.collector import detail, export, listing, openapi
from sluice.collector.answers import answer, refusal
from sluice.collector.ingest import Ingest
from sluice.collector.listing import BadQuery, Query
from sluice.collector.live import Ticks
from sluice.collector.reader import Reader

PAGE: Final = Path(__file__).parent / "page"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_MOST_EVENTS: Final = 1000


class _Whole(Convertor[str]):
    """All the rest of a path: an id may have slashes in it, and ends of lines."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("whole", _Whole())

Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The handlers, with what they read from."""

    def __init__(
        self,
        reader: Reader,
        ingest: Ingest,
        ticks: Ticks,
        clear: Callable[[], Awaitable[int]],
    ) -> None:
        self._reader = reader
        self._ingest = ingest
        self._ticks = ticks
        self._clear = clear

    def routes(self) -> Sequence[BaseRoute]:
        """All of them."""
        gets: dict[str, Handler] = {
            "/api/health": self._health,
            "/api/jobs": self._jobs,
            "/api/jobs/{task:whole}": self._job,
            "/api/workers": self._kept(self._reader.workers),
            "/api/queues": self._kept(self._reader.queues),
            "/api/now": self._kept(self._reader.now),
            "/api/failures": self._kept(self._reader.failures),
            "/api/names": self._kept(self._reader.names),
            "/api/events": self._events,
            "/api/tick": self._tick,
            "/api/live": self._live,
            "/api/export": self._export,
            "/api/openapi.json": self._openapi,
            "/": self._index,
            "/page/{name}": self._asset,
        }
        return [
            Route("/api/ingest", self._ingest.__call__, methods=["POST"]),
            Route("/api/clear", self._cleared, methods=["POST"]),
            *(Route(path, handler, methods=["GET"]) for path, handler in gets.items()),
        ]

    async def _health(self, _: Request) -> Response:
        return answer({"status": "ok"})

    async def _jobs(self, request: Request) -> Response:
        query = Query.of(_parameters(request))
        usual = await self._reader.usual()
        return answer(await self._reader.run(lambda one: listing.jobs(one, query, usual)))

    async def _job(self, request: Request) -> Response:
        _none(request)
        task = request.path_params["task"]
        if "\0" in task:
            raise BadQuery("task", "An id has no NUL.")
        usual = await self._reader.usual()
        found = await self._reader.run(lambda one: detail.job(one, task, usual))
        if found is None:
            return refusal(404, "NOT_FOUND", "Nothing was heard of this task.")
        return answer(found)

    def _kept(self, read: Callable[[], Awaitable[Any]]) -> Handler:
        async def handler(request: Request) -> Response:
            _none(request)
            return answer(await read())

        return handler

    async def _events(self, request: Request) -> Response:
        values = _parameters(request, "after", "limit", "job")
        after = listing.whole("after", values.get("after"), 0, -1, 2**53)
        limit = listing.whole("limit", values.get("limit"), 500, 1, _MOST_EVENTS)
        task = values.get("job") or None
        return answer(await self._reader.run(lambda one: detail.feed(one, after, limit, task)))

    async def _tick(self, request: Request) -> Response:
        _none(request)
        return answer({"seq": self._ticks.seq})

    async def _live(self, request: Request) -> Response:
        _none(request)

        async def lines() -> AsyncIterator[bytes]:
            async for seq in self._ticks.stream():
                yield b": still here\n\n" if seq is None else b'data: {"seq": %d}\n\n' % seq

        headers = {"X-Accel-Buffering": "no"}
        if request.method == "HEAD":  # whose answer ends with its headers
            return Response(None, 200, headers, "text/event-stream")
        return StreamingResponse(lines(), 200, headers, "text/event-stream")

    async def _export(self, request: Request) -> Response:
        values = _lists(request)
        kind = (values.get("format") or ["json"])[0]
        if kind not in export.FORMATS:
            raise BadQuery("format", f"Accepted are {' and '.join(export.FORMATS)}.")
        query = Query.of(values)
        disposition = {"Content-Disposition": f'attachment; filename="tasks.{kind}"'}
        if request.method == "HEAD":
            return Response(headers=disposition, media_type=export.FORMATS[kind])
        return StreamingResponse(
            export.written(self._reader, query, kind),
            media_type=export.FORMATS[kind],
            headers=disposition,
        )

    async def _cleared(self, request: Request) -> Response:
        _none(request)
        return answer({"cleared": await self._clear()})

    async def _openapi(self, _: Request) -> Response:
        return answer(openapi.document())

    async def _index(self, _: Request) -> Response:
        return FileResponse(PAGE / "index.html", media_type=_TYPES[".html"])

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        kind = _TYPES.get(Path(name).suffix)
        # By listing the folder: no path that a request makes is ever opened.
        if kind is None or name not in {one.name for one in PAGE.iterdir()}:
            return refusal(404, "NOT_FOUND", "There is nothing here.")
        return FileResponse(PAGE / name, media_type=kind, headers={"Cache-Control": "no-cache"})


def _lists(request: Request) -> Mapping[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        values.setdefault(name, []).append(value)
    return values


def _parameters(request: Request, *known: str) -> Any:
    values = _lists(request)
    if not known:
        if "format" in values:
            raise BadQuery("format", "There is no such parameter.")
        return values
    for name, given in values.items():
        if name not in known:
            raise BadQuery(name, "There is no such parameter.")
        if len(given) > 1 or "\0" in given[0]:
            raise BadQuery(name, "It can be given once, and has no NUL.")
    return {name: given[0] for name, given in values.items()}


def _none(request: Request) -> None:
    for name in request.query_params:
        raise BadQuery(name, "There is no such parameter.")


async def on_bad_query(_: Request, error: Exception) -> Response:
    """A parameter that cannot be used."""
    parameter = getattr(error, "parameter", "")
    return refusal(400, "VALIDATION_ERROR", f"{parameter}: {error}", {"path": parameter})


async def on_http_error(_: Request, error: Exception) -> Response:
    """What the router refuses: an unknown path, a method that a path does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(status, "INTERNAL_ERROR")
    headers = error.headers if isinstance(error, HTTPException) else None
    return refusal(status, code, getattr(error, "detail", "") or code, headers=headers)


async def on_fault(_: Request, error: Exception) -> Response:
    """A fault of the collector's.  The server logs it, and closes the connection."""
    message = f"{type(error).__name__}: see the collector's log."
    return refusal(500, "INTERNAL_ERROR", message, headers={"Connection": "close"})
