"""``POST /api/ingest``: the contract, from the key to the counts."""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sluice.collector.answers import answer, refusal, unavailable
from sluice.collector.intake import BODY_LIMIT, Batch, Refusal, read
from sluice.collector.writer import Writer

#: Seconds for the whole of a body.
BODY_TIMEOUT: Final = 20.0
_KEY: Final = re.compile(r"Bearer (sk_[!-~]{1,500})", re.IGNORECASE)


class Bucket:
    """So many events a second, and at most one second's worth at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._left = rate
        self._at = clock()

    def wait(self, events: int) -> float:
        """0 where they may come now, and are counted; else the seconds until they may."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        # A batch that is larger than a second's worth needs a full bucket, and leaves a debt.
        needed = min(events, self._rate)
        if self._left >= needed:
            self._left -= events
            return 0.0
        return (needed - self._left) / self._rate


class Ingest:
    """The endpoint.  `counts` are what it refused since somebody last asked."""

    def __init__(
        self,
        writer: Writer,
        *,
        api_key: str | None,
        rate_limit: float,
        on_trouble: Callable[[Exception], None],
    ) -> None:
        self._writer = writer
        self._on_trouble = on_trouble
        self._api_key = api_key
        self._bucket = Bucket(rate_limit)
        self.counts: Counter[str] = Counter()

    async def __call__(self, request: Request) -> Response:
        """Take a request's events in, or say why not."""
        if not self._has_key(request.headers.get("authorization", "")):
            self.counts["refused_keys"] += 1
            wanted = "the key that this collector was started with"
            if self._api_key is None:
                wanted = "any key that starts with 'sk_'"
            return refusal(401, "UNAUTHORIZED", f"The API key is not valid. Accepted is {wanted}.")
        try:
            batch = read(await _body(request))
        except Refusal as wrong:
            self.counts["invalid"] += 1
            details = {"path": wrong.path} if wrong.path else None
            return refusal(wrong.status, wrong.code, wrong.message, details)
        except TimeoutError:
            return refusal(408, "TIMEOUT", f"A body has {BODY_TIMEOUT:g} seconds to arrive.")
        except ClientDisconnect:
            return Response(status_code=400)
        wait = self._bucket.wait(len(batch.events))
        if wait:
            return _later("RATE_LIMITED", "More events than --rate-limit allows.", wait)
        return await self._keep(batch)

    async def _keep(self, batch: Batch) -> Response:
        promise = self._writer.offer(batch.events)
        if promise is None:
            return _later("RATE_LIMITED", "The database is slower than those who send.", 1)
        try:
            # It is written even where nobody waits any more: the promise is not to be cancelled.
            taken = await asyncio.shield(asyncio.wrap_future(promise))
        except Exception as error:  # noqa: BLE001  whatever the database says, they may come again
            self._on_trouble(error)
            return unavailable()
        counts = {"accepted": taken.accepted, "duplicates": taken.duplicates}
        if not batch.refused:
            return answer(counts)
        self.counts["invalid"] += batch.refused
        faults = [
            {"index": one.index, "path": one.path, "message": one.message} for one in batch.faults
        ]
        return refusal(
            400,
            "VALIDATION_ERROR",
            f"{batch.refused} of {batch.refused + len(batch.events)} events were refused;"
            " the others are kept.",
            {**counts, "events": sorted({one["index"] for one in faults}), "faults": faults},
        )

    def _has_key(self, header: str) -> bool:
        match = _KEY.fullmatch(header)
        if match is None:
            return False
        return self._api_key is None or hmac.compare_digest(
            match[1].encode(), self._api_key.encode()
        )


def _later(code: str, message: str, wait: float) -> Response:
    return refusal(429, code, message, headers={"Retry-After": str(max(1, math.ceil(wait)))})


async def _body(request: Request) -> bytes:
    """The whole body.  Raises :class:`Refusal`, :class:`TimeoutError`."""
    too_large = Refusal(413, "PAYLOAD_TOO_LARGE", f"A body has at most {BODY_LIMIT} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > BODY_LIMIT:
        raise too_large
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", f"A body in {encoding[:50]} is not read.")
    body = bytearray()
    async with asyncio.timeout(BODY_TIMEOUT):
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise too_large
    return bytes(body)
