"""A sender with its HTTP session: made, run and ended on the sender's own thread.

Also the sender's voice: which trouble is worth a line of log, and when it is over.

A request can take many seconds, and the chores wait meanwhile.  A worker would miss its
heartbeats by that, and lose events of children that write into small rings of their own while
the large ring of MAIN has room, so there a second thread does the chores when the sender does
not come to them.  Who holds `_turn` does them, one at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf
from typing import Final

from sluice.bell import Bell
from sluice.config import Settings, message
from sluice.http import Deliverer, Outcome, Patience, Verdict
from sluice.native import Native
from sluice.notices import Notices
from sluice.relay import Relay
from sluice.review import Review
from sluice.ring import Ring
from sluice.sender import Sender

#: Of the time that is left for the end, how much the sender may use; the rest is for its goodbye.
_SHARE_OF_THE_END: Final = 0.95
#: Seconds beyond the longest request after which a sender that has not moved is told of.
_STANDS_STILL: Final = 60.0
#: Seconds until a sender that could not begin does so again, and between looks at the end.
_FIRST_RESTART: Final = 1.0
_LONGEST_RESTART: Final = 60.0
_LOOK: Final = 0.05
#: Seconds that the sender has for its chores, when it is rung for, before another does them.
_HAS_TIME: Final = 0.02
#: Seconds between two looks of the helper's at the most: a heartbeat is due every two.
_LONGEST_LOOK: Final = 1.0
_NOT_AFFECTED: Final = "Monitoring is inactive, the worker is not affected"
_TROUBLE: Final = {
    Verdict.UNAUTHORIZED: (
        "The API key was refused ({reason})",
        f"{_NOT_AFFECTED}; check SLUICE_API_KEY and SLUICE_CONNECTION_ID in the dashboard",
    ),
    Verdict.MISDIRECTED: (
        "The ingest API is not at {url} ({reason})",
        f"{_NOT_AFFECTED}; check SLUICE_API_URL",
    ),
    Verdict.LATER: (
        "Events cannot be delivered now: {reason}",
        "They wait and are sent as soon as it is possible again; nothing needs to be done here",
    ),
    Verdict.REJECTED: (
        "The API refused an event ({reason})",
        "It was dropped, the others go on; sluice.stats().dropped_by counts them",
    ),
    Verdict.TOO_LARGE: (
        "A batch was too large for the API ({reason})",
        "It is sent in smaller parts; an event that is too large by itself is dropped",
    ),
}

#: What to do about `LATER` where events go to a collector on this machine.
_NO_COLLECTOR: Final = "They wait, and are sent once a collector is there: `sluice dev` starts it"


class Delivery:
    """Everything of the sender's thread.  `run()` is that thread; the rest is for others.

    `lost` says how many events never came to a ring of this process; `is_worker` whether, by
    now, there are chores that are to be done also while a request takes its time.
    """

    def __init__(
        self,
        settings: Settings,
        ring: Ring,
        relay: Relay,
        bell: Bell,
        notices: Notices,
        *,
        native: Callable[[], Native],
        chores: Callable[[], None],
        lost: Callable[[], int],
        is_worker: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._ring = ring
        self._relay = relay
        self._bell = bell
        self._notices = notices
        self._native = native
        self._chores = chores
        self._lost = lost
        self._is_worker = is_worker
        self._helps = False
        self._turn: list[None] = [None]
        self._chores_at = self._moved_at = time.monotonic()
        self._sleep: Callable[[float], None] = time.sleep
        self._sender: Sender | None = None
        self._deliverer: Deliverer | None = None
        self._review: Review | None = None
        self._deadline = inf
        self._trouble: Verdict | None = None
        self._broken = False
        self._told = False
        #: The thread has come to its end.
        self.finished = False

    def run(self) -> None:
        """Send until told to end.  Never raises."""
        pause = _FIRST_RESTART
        try:
            while not self._runs_to_its_end():
                self._broken = True
                until = time.monotonic() + pause
                while (left := until - time.monotonic()) > 0 and not self.is_ending:
                    self._sleep(min(left, _LOOK))
                if self.is_ending:
                    return
                pause = min(2 * pause, _LONGEST_RESTART)
        finally:
            self.finished = True

    def _runs_to_its_end(self) -> bool:
        """False: something was not to be had, a module's file without descriptors, say."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  rule 1
            self._notices.fault("the sender's thread", error)
            return False
        return True

    def _run(self) -> None:
        native, before_send = self._native(), self._settings.before_send
        self._sleep = native.time.sleep  # before, it is that of an unpatched process, or of none
        if before_send is not None:
            self._review = Review(before_send, self._notices)
        # The two need each other: delivering pauses the way the sender does.
        deliverer = self._deliverer = Deliverer(
            self._settings,
            native,
            pause=lambda seconds: sender.pause(seconds),  # noqa: PLW0108  made just below
            time_left=lambda: sender.time_left(),  # noqa: PLW0108
            on_trouble=self._on_trouble,
        )
        sender = self._sender = Sender(
            self._ring,
            deliver=self._deliver,
            wait=self._bell.waiter(native.select),
            clock=time.monotonic,
            interval=self._settings.flush_interval,
            chores=self._do_chores,
            dropped_elsewhere=lambda: sum(self._relay.lost.values()) + self._lost(),
            on_error=lambda error: self._notices.fault("the sender", error),
            on_odd=self._on_trouble,
            review=self._review,
        )
        if self._deadline != inf:  # told to end before it began
            sender.end_by(self._deadline)
        self._broken = False
        sender.run()
        self._take_turn()  # for good: nothing moves after the end
        deliverer.close()

    def _do_chores(self) -> None:
        if self._is_over:
            return  # who waited for the end has gone on, and taken away what chores need
        self._moved_at = time.monotonic()
        if not self._helps and self._is_worker():
            self._start_helper(self._native())
        self._take_turn()
        self._do_chores_in_turn()

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def _take_turn(self) -> None:
        while not self._has_taken_turn():
            self._sleep(_HAS_TIME / 10)

    def _has_taken_turn(self) -> bool:
        try:
            del self._turn[0]
        except IndexError:
            return False
        return True

    def _do_chores_in_turn(self) -> None:
        try:
            self._relay.move()
            self._chores()
        finally:
            self._chores_at = time.monotonic()
            self._turn.append(None)

    def _start_helper(self, native: Native) -> None:
        watch = self._bell.watcher(native.select)
        interval = min(self._settings.flush_interval, _LONGEST_LOOK)

        def help_out() -> None:
            while not (self.finished or self._is_over):
                longest = _HAS_TIME if watch(interval) else interval
                self._sleep(_HAS_TIME)
                late = time.monotonic() - self._chores_at > longest and not self._is_over
                if late and self._has_taken_turn():
                    try:
                        self._do_chores_in_turn()
                    except BaseException as error:  # noqa: BLE001  rule 1
                        self._notices.fault("the sender's helper", error)

        try:
            native.threading.Thread(target=help_out, name="sluice-helper", daemon=True).start()
            self._helps = True
        except RuntimeError:
            pass  # the interpreter is ending; or there are too many threads just now

    def _deliver(self, body: bytes, patience: Patience) -> Outcome:
        assert self._deliverer is not None  # noqa: S101  only its own sender calls this
        outcome = self._deliverer.deliver(body, patience)
        if outcome.verdict is Verdict.DELIVERED and self._trouble is not None:
            self._trouble = None
            if self._told:
                text = "[sluice] Events are delivered again."
                self._notices.add("recovered", text, level=logging.INFO, once=False)
        return outcome

    def _on_trouble(self, outcome: Outcome) -> None:
        """One line when a trouble begins, none while it lasts.

        One that comes again within a minute is told of after that minute, if it is still there.
        """
        lasting = outcome.verdict not in (Verdict.REJECTED, Verdict.TOO_LARGE)
        if lasting and outcome.verdict is self._trouble and self._told:
            return
        if lasting:
            self._trouble = outcome.verdict
        happened, to_do = _TROUBLE[outcome.verdict]
        if outcome.verdict is Verdict.LATER and not self._settings.proxied:
            to_do = _NO_COLLECTOR
        text = message(happened.format(reason=outcome.reason, url=self._settings.api_url), to_do)
        told = self._notices.add(f"trouble {outcome.verdict.name}", text, once=False)
        if lasting:
            self._told = told

    # For the application's threads.

    def look_after(self) -> None:
        """Say so if the sender's thread stands still, which nothing of ours makes it do.

        In an eventlet process the collector of garbage can run a finaliser there that waits
        for a green lock, and that is for ever.
        """
        still = time.monotonic() - self._moved_at - sum(self._settings.request_timeout)
        if still > _STANDS_STILL and not self.finished and self._sender is not None:
            text = message(
                "The sender's thread stands still, and no event is delivered",
                "The worker is not affected; a restart delivers what waits in the buffer",
            )
            self._notices.add("stands still", text, once=False)

    def close_inherited(self) -> None:
        """In a child that was forked beside this: close what it must not keep open."""
        if self._deliverer is not None:
            self._deliverer.sockets.let_go()

    def end_by(self, deadline: float) -> None:
        """Send what is there and end, at `deadline` (`time.monotonic`) at the latest.

        A little earlier while the API does not answer: who waits so long shall see it end.
        """
        now = time.monotonic()
        self._deadline = now + _SHARE_OF_THE_END * (deadline - now)
        if self._sender is not None:
            self._sender.end_by(self._deadline)

    @property
    def turns_begun(self) -> int:
        """How often the sender has begun to send all that there is."""
        return self._sender.turns_begun if self._sender is not None else 0

    @property
    def last_full_turn(self) -> int:
        """The last such turn that left nothing over."""
        return self._sender.last_full_turn if self._sender is not None else 0

    @property
    def works(self) -> bool:
        """False while the API refuses the key or is not there, or the sender cannot begin."""
        return not self._broken and self._trouble not in (Verdict.UNAUTHORIZED, Verdict.MISDIRECTED)

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end."""
        return self._deadline != inf

    @property
    def delivers(self) -> bool:
        """Whether the API has taken events of this process, and was not in trouble since."""
        return self._trouble is None and self.delivered > 0

    @property
    def delivered(self) -> int:
        """Events that the API has taken."""
        return self._sender.account.delivered if self._sender is not None else 0

    @property
    def requests(self) -> int:
        """Requests made, tries included."""
        return self._deliverer.requests if self._deliverer is not None else 0

    @property
    def reviews(self) -> tuple[int, int]:
        """Runs of `before_send` that failed, and that were slow."""
        return (self._review.failed, self._review.slow) if self._review is not None else (0, 0)

    @property
    def dropped_by(self) -> dict[str, int]:
        """Events of this process's ring that were lost or refused, by reason."""
        if self._sender is None:
            return {}
        account = self._sender.account
        return {"overwritten": account.lost, **account.refused}
