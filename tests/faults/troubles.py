"""Every trouble of an API by name, as something to be entered and left."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from typing import Any, Literal

from sluice.testing import Answer, IngestServer
from sluice.testing.http import Behaviour, Received, reject_if
from tests.faults.address import Address
from tests.faults.name_server import NameServer
from tests.harness.front import Front
from tests.pools.timeline import event_id

Trouble = Callable[[], AbstractContextManager[None]]


def come_back_in_a_second(_: Received) -> Answer:
    """429 with the form of ``Retry-After`` that is a date, which has whole seconds."""
    return Answer(status=429, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)})


#: What ends by itself once the API is well again; "come back tomorrow" within the hour (see
#: test_http.py).
ANSWERS: dict[str, Behaviour] = {
    "no answer": Answer(fault="hang"),
    "one byte a second": Answer(drip=1.0),
    # Neither has taken the batch: who thinks so loses it.
    "closed without an answer": Answer(fault="close", status=500),
    "reset": Answer(fault="reset", status=500),
    "reset after it was taken": Answer(fault="reset"),
    "closed in the middle": Answer(fault="truncate", status=500),
    "500": Answer(status=500),
    "503": Answer(status=503),
    "429": Answer(status=429),
    "429, a second": Answer(status=429, headers={"Retry-After": "1"}),
    "429, a date": come_back_in_a_second,
    "429, negative": Answer(status=429, headers={"Retry-After": "-5"}),
    "429, garbage": Answer(status=429, headers={"Retry-After": "soon"}),
    "200 with garbage": Answer(body=b"<html>\xff\x00"),
    "200 broken off": Answer(body=b"{}" * 500, fault="truncate"),
}


def bad_events(one_in: int) -> Behaviour:
    """400 for a batch with an event whose number in its ring ends so: one in so many."""

    def is_bad(event: dict[str, Any]) -> bool:
        return int(event_id(event).rpartition("-")[2]) % one_in == one_in - 1

    return reject_if(is_bad)


#: What an event does not survive, if all of its batch, and it alone, are answered so.
DROPPING = {str(status): Answer(status=status) for status in (400, 413)}
#: What somebody has to mend, or an hour or five minutes have to pass for.
REFUSALS = {
    **{str(status): Answer(status=status) for status in (401, 403, 404)},
    "redirect": Answer(status=307, headers={"Location": "http://127.0.0.1:9/"}),
    "429, a day": Answer(status=429, headers={"Retry-After": "86400"}),
}


def of_the_network(address: Address) -> dict[str, Trouble]:
    """Those in which nobody, or somebody else, is at the address of the API."""
    return {
        "refused": address.front.refused,
        "black hole": address.front.black_hole,
        "silent": address.front.silent,
        "certificate expired": lambda: address.impostor("expired"),
        "certificate of another host": lambda: address.impostor("of another host"),
        "certificate of an unknown authority": lambda: address.impostor("of an unknown authority"),
        "no TLS": lambda: address.impostor("no TLS"),
    }


def of_answers(server: IngestServer, answers: Mapping[str, Behaviour]) -> dict[str, Trouble]:
    """Those in which the API itself gives these answers."""

    def giving(answer: Behaviour) -> Trouble:
        @contextmanager
        def give() -> Iterator[None]:
            server.answer = answer
            yield
            server.answer = Answer()

        return give

    return {name: giving(answer) for name, answer in answers.items()}


def of_a_proxy(proxy: Front) -> dict[str, Trouble]:
    """Those of a proxy that lets nothing through."""

    def answering(line: bytes) -> Trouble:
        @contextmanager
        def answer() -> Iterator[None]:
            before = proxy.answer
            with proxy.refused():  # a tunnel that is open is not asked for
                proxy.answer = line
            yield
            with proxy.refused():
                proxy.answer = before

        return answer

    return {
        "proxy refused": proxy.refused,
        "proxy black hole": proxy.black_hole,
        "proxy silent": proxy.silent,
        "proxy answers 407": answering(b"407 Proxy Authentication Required"),
        "proxy answers 502": answering(b"502 Bad Gateway"),
    }


def of_dns(server: NameServer, address: Address) -> dict[str, Trouble]:
    """Those in which nobody says where the API is."""

    def doing(mode: Literal["fails", "hangs"]) -> Trouble:
        @contextmanager
        def do() -> Iterator[None]:
            server.mode = mode
            asked = server.asked
            with address.front.refused():  # a connection that lives needs no name
                pass
            yield
            assert server.asked > asked, "it was asked"
            server.mode = "answers"

        return do

    return {"DNS fails": doing("fails"), "DNS hangs": doing("hangs")}
