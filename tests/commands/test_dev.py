"""`sluice dev`: what its options become, and what it says where it cannot begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.collector import server
from sluice.collector.server import Options
from sluice.commands import dev
from tests.doubles import run_python


@pytest.fixture
def served(monkeypatch):
    """The options that the collector was started with; it ends at once."""
    found: list[Options] = []

    def serve(options: Options) -> int:
        found.append(options)
        return 7

    monkeypatch.setattr(server, "serve", serve)
    return found


def test_without_options_they_are_the_collectors_defaults(run, served):
    assert run("dev") == (7, "", "")
    assert served == [Options()]


def test_each_option_arrives(run, served, tmp_path):
    run(
        *("dev", "--host", "0.0.0.0", "--port", "0", "--db", str(tmp_path / "a b.sqlite")),
        *("--max-tasks", "5", "--max-bytes", "2MiB", "--max-age", "12h", "--rate-limit", "100"),
        *("--api-key", "sk_team", "--token", "tok-12345"),
        *("--allowed-host", "one.example", "--allowed-host", "two.example"),
    )
    (found,) = served
    assert found == Options(
        host="0.0.0.0",
        port=0,
        db=tmp_path / "a b.sqlite",
        database_url=None,
        max_tasks=5,
        max_bytes=2 * 1024 * 1024,
        max_age=43_200.0,
        rate_limit=100.0,
        api_key="sk_team",
        token="tok-12345",
        allowed_hosts=("one.example", "two.example"),
    )
    assert isinstance(found.db, Path)


def test_secrets_come_from_variables_after_options(run, served, monkeypatch):
    monkeypatch.setenv("SLUICE_COLLECTOR_KEY", "sk_variable")
    monkeypatch.setenv("SLUICE_COLLECTOR_TOKEN", "variable-token")
    monkeypatch.setenv("SLUICE_COLLECTOR_DATABASE_URL", "postgresql://u:p@h/d")
    run("dev")
    run("dev", "--api-key", "sk_option", "--token", "option-token", "--db", "file")
    assert [(one.api_key, one.token, one.database_url) for one in served] == [
        ("sk_variable", "variable-token", "postgresql://u:p@h/d"),
        ("sk_option", "option-token", None),
    ]


def test_the_sdks_own_key_is_not_the_collectors(run, served, monkeypatch):
    monkeypatch.setenv("SLUICE_API_KEY", "sk_live")
    run("dev")
    assert served == [Options()]


def test_an_option_that_cannot_be_used_is_one_line(run, served):
    code, out, err = run("dev", "--db", "file", "--database-url", "postgresql://h/d")
    assert (code, out, served) == (2, "", [])
    assert err.count("\n") == 1
    assert "--db and --database-url" in err


def test_an_address_in_use_and_the_like_are_the_servers_to_tell(run, monkeypatch):
    def serve(options: Options) -> int:
        raise server.BadOption("--port 1 cannot be had.")

    monkeypatch.setattr(server, "serve", serve)
    assert run("dev") == (2, "", "sluice: --port 1 cannot be had.\n")


def test_without_the_extra_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(dev, "find_spec", lambda name: None if name == "uvicorn" else name)
    code, out, err = run("dev")
    assert (code, out) == (2, "")
    assert 'pip install "sluice-sdk[collector]"' in err
    assert "uvicorn" in err
    assert "starlette" not in err


def test_the_help_says_that_arguments_can_be_seen_and_what_to_do(run):
    code, out, _ = run("dev", "--help")
    assert code == 0
    told = " ".join(out.split())
    assert told.count("lists of processes") >= 4
    for name in ("KEY", "TOKEN", "DATABASE_URL"):
        assert f"SLUICE_COLLECTOR_{name}" in told


def test_help_needs_neither_the_extra_nor_celery():
    run_python(
        """
        import sys
        for name in ("starlette", "uvicorn", "sqlalchemy", "celery", "requests"):
            sys.modules[name] = None
        from sluice.cli import main
        for command in (["dev"], ["tasks"], ["tail"], ["doctor"], []):
            try:
                main([*command, "--help"])
            except SystemExit as left:
                assert left.code == 0, left.code
        assert main(["version"]) == 0
        """
    )
