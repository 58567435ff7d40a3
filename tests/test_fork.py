"""Forks: what a child gets, what its parent reads, and that nobody hangs."""

import os
import textwrap
from pathlib import Path

import pytest

from sluice.testing import IngestServer
from tests.doubles import CLIENT_SCRIPT, run_python

HEADER = (
    CLIENT_SCRIPT
    + """
def child(code):
    pid = os.fork()
    if pid == 0:
        try: code()
        finally: os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
)


@pytest.fixture
def script(ingest: IngestServer, spool_dir: os.PathLike[str]) -> object:
    def run(code: str, **extra: str) -> list[str]:
        env = {
            "SLUICE_API_URL": ingest.url,
            "SLUICE_SPOOL_DIR": str(spool_dir),
            "PYTHONWARNINGS": "ignore::DeprecationWarning",
        }
        done = run_python(HEADER + textwrap.dedent(code), **env | extra)
        return done.stdout.split()

    return run


def sent_by(ingest: IngestServer) -> int:
    return sum(event["job"]["state"] == "queued" for event in ingest.events())


def test_a_prefork_child_writes_and_its_parent_sends(script, ingest: IngestServer) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        def code():
            for _ in range(20): task.delay()
            print(client.stats().transport, threading.active_count(), sluice.flush(5), flush=True)
            os.kill(os.getpid(), 9)
        status = child(code)
        print(status, sluice.flush(5), client.stats().delivered)
        """
    )
    assert output == ["parent", "1", "True", "-9", "True", "20"]
    assert sent_by(ingest) == 20


def test_a_child_writes_into_its_own_ring_whatever_it_could_not_let_go_of(
    script, ingest: IngestServer
) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        def broken(): raise RuntimeError("not now")
        client._delivery.close_inherited = broken
        def code():
            task.delay()
            print(client.stats().transport, client.stats().faults, sluice.flush(5), flush=True)
        child(code)
        print(sluice.flush(5), client.stats().delivered)
        """
    )
    assert output == ["parent", "1", "True", "True", "1"]
    assert sent_by(ingest) == 1


def test_a_killed_childs_events_are_delivered_and_its_ring_removed(
    script, ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        def code():
            for _ in range(20): task.delay()
            os.kill(os.getpid(), 9)
        for _ in range(10): child(code)
        sluice.flush(5)
        stats = client.stats()
        print(stats.captured, stats.delivered, stats.pending, stats.dropped)
        sluice.flush(5)
        print(len(os.listdir(os.environ["SLUICE_SPOOL_DIR"])))
        """
    )
    assert output == ["200", "200", "0", "0", "1"]
    assert sent_by(ingest) == 200
    assert list(Path(spool_dir).iterdir()) == [], (
        "the ring of a process that delivered all is removed"
    )


def test_a_child_maps_its_own_ring_and_not_those_of_its_siblings(script) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        def rings(): return sum(".ring" in line for line in open("/proc/self/maps"))
        go, stop = os.pipe(), os.pipe()
        def first():
            os.write(go[1], b"x")
            os.read(stop[0], 1)
        pid = os.fork()
        if pid == 0:
            try: first()
            finally: os._exit(0)
        os.read(go[0], 1)
        until = time.monotonic() + 5
        while not client._relay._children.transfers and time.monotonic() < until: time.sleep(0.01)
        print(rings())
        child(lambda: print(rings(), flush=True))
        os.write(stop[1], b"x")
        os.waitpid(pid, 0)
        """
    )
    assert output == ["2", "1"], "MAIN's and that of one child, and in the next its own"


def test_the_ring_of_a_killed_process_is_nobodys_while_its_children_live(
    script, ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    """Also of one that was forked beside its sender, whose frames are in the child, too."""
    output = script(
        """
        read_end, write_end = os.pipe()
        is_forked, says_so = os.pipe()
        main = os.fork()
        if main == 0:
            task.delay()
            sluice.flush(5)
            if os.fork() == 0:
                os.write(says_so, b".")  # only now it has let go: the hooks of a fork come first
                os.close(write_end)
                os.read(read_end, 1)  # until the test has looked
                os._exit(0)
            os._exit(9)
        os.waitpid(main, 0)
        os.read(is_forked, 1)
        spool = client._spool
        orphan = spool.take_orphan()
        print(orphan is not None)
        """
    )
    assert output == ["True"]


def test_a_process_whose_sender_has_ended_makes_no_more_rings(
    script, ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        sluice.shutdown(5)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20): child(lambda: None)
        print(len(os.listdir("/proc/self/fd")) - before)
        """
    )
    assert output == ["0"]
    assert os.listdir(spool_dir) == []


def test_who_gets_no_thread_says_so_makes_no_rings_and_tries_again(
    script, ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    output = script(
        """
        start = threading.Thread.start
        def refuse(self): raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        client.begin_worker(forks=True)
        client.start_sender()
        task.delay()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20): child(lambda: None)
        print(len(os.listdir("/proc/self/fd")) - before)
        print(sum("No thread can be started" in line for _, line in client.notices._waiting))
        registered = []
        import sluice.client
        sluice.client.call_before_the_end = registered.append
        for _ in range(5):
            client._again_at = 0.0
            task.delay()
        assert registered == []  # once is enough
        task.delay()  # at once it is not tried again
        threading.Thread.start = start
        print(client.stats().active)
        client._again_at = 0.0
        task.delay()
        print(sluice.flush(5), client.stats().delivered)
        """
    )
    assert output == ["0", "1", "False", "True", "8"]


def test_after_shutdown_nothing_is_captured_also_where_there_was_no_thread(
    script, ingest: IngestServer
) -> None:
    output = script(
        """
        start = threading.Thread.start
        def refuse(self): raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        task.delay()
        print(sluice.shutdown(0.1), client.stats().captured)
        threading.Thread.start = start
        client._again_at = 0.0
        task.delay()
        print(client.stats().captured, threading.active_count())
        """
    )
    assert output == ["False", "1", "1", "1"]


def test_where_there_is_no_memory_for_a_ring_no_descriptor_is_left_behind(
    script, ingest: IngestServer
) -> None:
    output = script(
        """
        def refuse(*_, **__): raise OSError(12, "Cannot allocate memory")
        client._spool.create = refuse
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10): task.delay()
        print(len(os.listdir("/proc/self/fd")) - before)
        """
    )
    assert output == ["0"]


def test_a_worker_whose_sender_ran_before_it_was_one_has_a_helper(
    script, ingest: IngestServer
) -> None:
    output = script(
        """
        task.delay()
        sluice.flush(5)
        client.begin_worker(forks=True)
        client.start_sender()
        until = time.monotonic() + 10
        while threading.active_count() < 3 and time.monotonic() < until: time.sleep(0.01)
        print(*sorted(thread.name for thread in threading.enumerate()))
        """
    )
    assert output == ["MainThread", "sluice-helper", "sluice-sender"]


def test_any_other_forked_process_sends_for_itself(script, ingest: IngestServer) -> None:
    output = script(
        """
        task.delay()
        def code():
            before = threading.active_count()
            task.delay()
            print(before, sluice.flush(5), client.stats().captured, flush=True)
        child(code)
        print(sluice.flush(5), client.stats().captured)
        """
    )
    assert output == ["1", "True", "1", "True", "1"]
    assert sent_by(ingest) == 2
    assert len({event["job"]["extensions"]["eventId"][:16] for event in ingest.events()}) == 2


def test_a_process_that_was_forked_behind_pythons_back_sends_for_itself(
    script, ingest: IngestServer
) -> None:
    """uWSGI forks its workers without the hooks of `os.fork`."""
    output = script(
        """
        import ctypes
        task.delay()
        print(sluice.flush(5))
        rings = os.listdir(os.environ["SLUICE_SPOOL_DIR"])
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:  # it has captured nothing
            sluice.shutdown(5)
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.listdir(os.environ["SLUICE_SPOOL_DIR"]) == rings
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            for _ in range(3): task.delay()
            print(sluice.flush(5), client.stats().captured, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        task.delay()
        print(sluice.flush(5), client.stats().captured)
        """
    )
    assert output == ["True", "True", "3", "True", "2"]
    assert sent_by(ingest) == 5


def test_a_child_of_a_prefork_child_sends_for_itself(script, ingest: IngestServer) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        def grandchild():
            task.delay()
            print(client.stats().transport, sluice.flush(5), flush=True)
        def code():
            task.delay()
            child(grandchild)
        child(code)
        print(sluice.flush(5))
        """
    )
    assert output == ["thread", "True", "True"]
    assert sent_by(ingest) == 2


def test_forks_of_several_threads_give_each_child_its_own_ring(
    script, ingest: IngestServer
) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        def code():
            for _ in range(10): task.delay()
        def fork_ten():
            for _ in range(10): child(code)
        threads = [threading.Thread(target=fork_ten) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        sluice.flush(5)
        stats = client.stats()
        print(stats.captured, stats.delivered, stats.dropped)
        """
    )
    assert output == ["400", "400", "0"]
    assert sent_by(ingest) == 400


def test_a_fork_waits_for_imports_on_the_senders_thread(script, ingest: IngestServer) -> None:
    """A child that inherits the lock of a half-imported module hangs at its own import."""
    output = script(
        """
        for _ in range(3):
            def code():
                import requests, tenacity
            task.delay()  # starts the thread, which imports
            print(child(code))
            sluice.shutdown(0)
            sent = ("requests", "tenacity", "urllib3")
            for name in [n for n in sys.modules if n.startswith(sent)]:
                del sys.modules[name]
            client._native = None
            client.recorder.closed = False
        """
    )
    assert output == ["0", "0", "0"]


def test_a_fork_that_nobody_told_of_is_noticed_by_its_number(script, ingest: IngestServer) -> None:
    output = script(
        """
        task.delay()
        sluice.flush(5)
        client._pid = -1  # as after a fork without hooks
        client.recorder.ring = None
        task.delay()
        print(client._pid == os.getpid(), sluice.flush(5))
        """
    )
    assert output == ["True", "True"]
    assert sent_by(ingest) == 2


def test_children_come_to_their_end_while_the_sender_is_busy(script, ingest: IngestServer) -> None:
    output = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        from sluice.events import Job
        stop = []
        def capture():  # not task.delay(): kombu's locks do not survive a fork under load
            while not stop:
                client.recorder.job(time.time(), Job(external_id="x", name="y", state="active",
                                                     extensions={"celeryEvent": "z"}))
                time.sleep(0.0001)
        thread = threading.Thread(target=capture); thread.start()
        def code():
            import logging, ssl
            logging.getLogger("x").warning("y")
            ssl.create_default_context()
            task.delay()
        print(sum(child(code) for _ in range(60)))
        stop.append(1); thread.join()
        """
    )
    assert output == ["0"]


def test_a_child_ends_though_the_sender_held_the_lock_of_its_connections(
    script, ingest: IngestServer
) -> None:
    """urllib3 empties its queue of connections when a process ends, by a finalizer."""
    output = script(
        """
        task.delay()
        sluice.flush(5)
        (manager,) = {id(a.poolmanager): a.poolmanager
                      for a in client._delivery._deliverer._session.adapters.values()
                      if len(a.poolmanager.pools)}.values()
        queue = manager.pools[list(manager.pools.keys())[0]].pool
        inside, forked, take = threading.Event(), threading.Event(), queue._get
        def slowly():
            inside.set()
            forked.wait(20)
            return take()
        queue._get = slowly
        task.delay()
        inside.wait(20)
        pid = os.fork()
        if pid == 0:
            del queue._get
            sys.exit(7)
        deadline = time.monotonic() + 10
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        if not ended[0]:
            os.kill(pid, 9)
        print(os.waitstatus_to_exitcode(ended[1]) if ended[0] else "it hangs")
        forked.set()
        print(sluice.flush(5))
        """
    )
    assert output == ["7", "True"]
    assert sent_by(ingest) == 2


def test_the_end_of_a_child_is_quiet_and_closes_nothing_of_its_own(
    ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    """The sender's connection is closed in a child; urllib3 closes its number once more."""
    code = """
        import atexit, os
        files = []
        @atexit.register  # before Sluice's libraries: called after theirs
        def look():
            print(*(os.fstat(number).st_size >= 0 for number in files), flush=True)
    """
    after = """
        task.delay()
        sluice.flush(5)
        pid = os.fork()
        if pid == 0:
            files += [os.open("/dev/zero", os.O_RDONLY) for _ in range(8)]
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        task.delay()
        print(sluice.flush(5), client.stats().requests)
    """
    done = run_python(
        textwrap.dedent(code) + HEADER + textwrap.dedent(after),
        SLUICE_API_URL=ingest.url,
        SLUICE_SPOOL_DIR=str(spool_dir),
        PYTHONWARNINGS="ignore::DeprecationWarning",
    )
    assert done.stdout.split() == [*["True"] * 8, "7", "True", "2"]
    assert done.stderr == ""
    assert sent_by(ingest) == 2
