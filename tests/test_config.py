"""Settings: where each comes from, what is refused and how, and that the key is never shown."""

from __future__ import annotations

import dataclasses
import inspect
import pprint
import traceback
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sluice
from sluice.config import Secret, Settings, SluiceConfigError, is_strict, resolve, variable
from tests.doubles import LAW

KEY = "sk_live_51HopeNobodyEverSeesThis"
CONNECTION = "123e4567-e89b-12d3-a456-426614174000"
NEEDED = {"api_key": KEY, "connection_id": CONNECTION}
MIB = 1024 * 1024

DEFAULTS = {
    "api_url": "https://sluice.sh/api",
    "strict": True,
    "environment": None,
    "flush_interval": 1.0,
    "buffer_bytes": 8 * MIB,
    "spool_dir": None,
    "shutdown_timeout": 2.0,
    "request_timeout": (5.0, 10.0),
    "celery_events": False,
    "capture_tracebacks": True,
    "before_send": None,
    "proxied": True,
    "debug": False,
}
# name, a value as a parameter, what it becomes, another as a variable, what that becomes
SOURCES = [
    ("connection_id", str(uuid.UUID(int=7)), str(uuid.UUID(int=7)), CONNECTION, CONNECTION),
    ("api_url", "http://a.example/x", "http://a.example/x", "https://b.example", None),
    ("strict", True, True, "no", False),
    ("environment", "production", "production", "staging", None),
    ("flush_interval", 0.5, 0.5, "2.5", 2.5),
    ("buffer_bytes", MIB, MIB, "131072", 131072),
    ("spool_dir", Path("/one"), "/one", "/two", None),
    ("shutdown_timeout", 0, 0.0, "3", 3.0),
    ("request_timeout", (1, 2), (1.0, 2.0), "3,4.5", (3.0, 4.5)),
    ("celery_events", False, False, "on", True),
    ("capture_tracebacks", True, True, "0", False),
    ("debug", False, False, "TRUE", True),
]
# name, a bad value, what the message says is accepted
BAD = [
    ("before_send", "app.scrub", "a function that takes an event"),
    ("before_send", 1, "a function that takes an event"),
    ("api_key", "", "starts with 'sk_'"),
    ("api_key", "pk_live_0000", "starts with 'sk_'"),
    ("api_key", "sk_", "starts with 'sk_'"),
    ("api_key", f"{KEY} ", "no spaces"),
    ("api_key", f"{KEY}\n", "no spaces"),
    ("api_key", f"Bearer {KEY}", "starts with 'sk_'"),
    ("api_key", KEY.encode(), "starts with 'sk_'"),
    ("api_key", "sk_kl\u00fc", "starts with 'sk_'"),
    ("api_key", "sk_" + "x" * 501, "whole"),
    ("connection_id", "", "123e4567-"),
    ("connection_id", "production", "123e4567-"),
    ("connection_id", CONNECTION[:-1], "123e4567-"),
    ("connection_id", 7, "123e4567-"),
    ("api_url", "", "https://sluice.sh/api"),
    ("api_url", 7, "https://sluice.sh/api"),
    ("api_url", "sluice.sh/api", "https://sluice.sh/api"),
    ("api_url", "ftp://sluice.sh", "https://sluice.sh/api"),
    ("api_url", "https://", "https://sluice.sh/api"),
    ("api_url", "https:///api", "https://sluice.sh/api"),
    ("api_url", "https://sluice.sh/a b", "https://sluice.sh/api"),
    ("api_url", "https://sluice.sh/api\n", "https://sluice.sh/api"),
    ("api_url", "https://sluice.sh:99999", "https://sluice.sh/api"),
    ("api_url", "https://[::1", "https://sluice.sh/api"),
    ("api_url", "https://sluice.sh/api?a=b", "https://sluice.sh/api"),
    ("api_url", "https://sluice.sh/api#there", "https://sluice.sh/api"),
    ("api_url", "https://user:pass@sluice.sh/api", "https://sluice.sh/api"),
    ("dev", "maybe", "http://127.0.0.1:5580"),
    ("dev", "", "http://127.0.0.1:5580"),
    ("dev", "127.0.0.1:5580", "http://127.0.0.1:5580"),
    ("dev", 5580, "http://127.0.0.1:5580"),
    ("dev", "ftp://127.0.0.1", "http://127.0.0.1:5580"),
    ("dev", "http://", "http://127.0.0.1:5580"),
    ("dev", "http://user:pass@127.0.0.1", "http://127.0.0.1:5580"),
    ("strict", "maybe", "True and False"),
    ("strict", 2, "True and False"),
    ("strict", 1.0, "True and False"),
    ("enabled", "maybe", "True and False"),
    ("environment", "a\nb", "up to 64 characters"),
    ("environment", "x" * 65, "up to 64 characters"),
    ("environment", 7, "up to 64 characters"),
    ("flush_interval", 0, "from 0.05 to 60"),
    ("flush_interval", 61, "from 0.05 to 60"),
    ("flush_interval", "soon", "from 0.05 to 60"),
    ("flush_interval", True, "from 0.05 to 60"),
    ("flush_interval", float("nan"), "from 0.05 to 60"),
    ("flush_interval", float("inf"), "from 0.05 to 60"),
    ("flush_interval", (1, 2), "from 0.05 to 60"),
    ("buffer_bytes", 65535, "from 65536 to 1073741824"),
    ("buffer_bytes", 1024 * MIB + 1, "from 65536 to 1073741824"),
    ("buffer_bytes", 100_000.5, "whole number of bytes"),
    ("buffer_bytes", "8 MiB", "whole number of bytes"),
    ("buffer_bytes", float("nan"), "whole number of bytes"),
    ("buffer_bytes", float("inf"), "whole number of bytes"),
    ("buffer_bytes", True, "whole number of bytes"),
    ("spool_dir", "relative/folder", "absolute path"),
    ("spool_dir", "", "absolute path"),
    ("spool_dir", "/a\0b", "absolute path"),
    ("spool_dir", b"/bytes", "absolute path"),
    ("spool_dir", 7, "absolute path"),
    ("shutdown_timeout", -1, "from 0 to 60"),
    ("shutdown_timeout", 61, "from 0 to 60"),
    ("request_timeout", 0, "from 0.1 to 300"),
    ("request_timeout", 301, "from 0.1 to 300"),
    ("request_timeout", (5, 10, 15), "from 0.1 to 300"),
    ("request_timeout", (), "from 0.1 to 300"),
    ("request_timeout", (5, None), "from 0.1 to 300"),
    ("request_timeout", "5;10", "from 0.1 to 300"),
    ("request_timeout", {"connect": 5}, "from 0.1 to 300"),
    ("celery_events", "always", "True and False"),
    ("capture_tracebacks", "never", "True and False"),
    ("debug", "verbose", "True and False"),
]


def settings(**given: object) -> Settings:
    found = resolve(NEEDED | given, {})
    assert found is not None
    return found


def refusal(given: dict[str, object], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SluiceConfigError) as caught:
        resolve(given, environ or {})
    return str(caught.value)


# --- sources --------------------------------------------------------------------------------------


def test_defaults_are_the_documented_ones():
    found = dataclasses.asdict(settings())
    assert found.pop("api_key").reveal() == KEY
    assert found == {"connection_id": CONNECTION, **DEFAULTS}


def test_every_parameter_of_init_is_tested_here():
    parameters = set(inspect.signature(sluice.init).parameters)
    elsewhere = {"api_key", "enabled", "before_send", "dev"}
    assert parameters == {name for name, *_ in SOURCES} | elsewhere
    assert parameters == {name for name, *_ in BAD}


@pytest.mark.parametrize(("name", "value", "becomes", "text", "read"), SOURCES)
def test_parameter_then_variable_then_default(name, value, becomes, text, read):
    read = text if read is None else read
    needed = {key: value for key, value in NEEDED.items() if key != name}
    variables = {variable(name): text}

    assert getattr(resolve(needed | {name: value}, variables), name) == becomes
    assert getattr(resolve(needed, variables), name) == read
    assert getattr(resolve(needed | {name: None}, variables), name) == read
    assert becomes != read
    if name in DEFAULTS:
        assert getattr(resolve(needed, {}), name) == DEFAULTS[name] != read


def test_the_key_comes_from_its_parameter_then_from_its_variable():
    variables = {"SLUICE_API_KEY": "sk_from_variable", "SLUICE_CONNECTION_ID": CONNECTION}
    assert resolve({}, variables).api_key.reveal() == "sk_from_variable"
    assert resolve({"api_key": KEY}, variables).api_key.reveal() == KEY
    assert resolve({"api_key": Secret(KEY)}, variables).api_key.reveal() == KEY


def test_variables_come_from_the_process(monkeypatch):
    monkeypatch.setenv("SLUICE_FLUSH_INTERVAL", "7")
    assert resolve(NEEDED).flush_interval == 7


def test_blanks_around_a_variable_are_ignored_and_a_blank_one_is_not_set():
    found = resolve(NEEDED, {"SLUICE_FLUSH_INTERVAL": " 7 \n", "SLUICE_BUFFER_BYTES": "  "})
    assert (found.flush_interval, found.buffer_bytes) == (7.0, 8 * MIB)


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "Yes", "on", "0", "false", "No", "OFF"])
def test_flags_are_read_from_words(text):
    wanted = text.lower() in ("1", "true", "yes", "on")
    assert resolve(NEEDED, {"SLUICE_DEBUG": text}).debug is wanted
    assert settings(debug=text).debug is wanted


def test_zero_and_one_are_flags():
    assert settings(debug=1).debug is True
    assert settings(strict=0).strict is False


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (7, (7.0, 7.0)),
        ("7", (7.0, 7.0)),
        ([1, 2], (1.0, 2.0)),
        (("1", "2"), (1.0, 2.0)),
        ("1, 2", (1.0, 2.0)),
        ((0.1, 300), (0.1, 300.0)),
    ],
)
def test_request_timeout_is_one_number_or_two(value, becomes):
    assert settings(request_timeout=value).request_timeout == becomes


@pytest.mark.parametrize(
    "value", [CONNECTION, CONNECTION.upper(), f"{{{CONNECTION}}}", uuid.UUID(CONNECTION)]
)
def test_a_connection_id_is_written_in_one_way(value):
    assert settings(connection_id=value).connection_id == CONNECTION


@pytest.mark.parametrize("url", ["https://sluice.sh/api/", "https://sluice.sh/api//"])
def test_a_slash_at_the_end_of_the_url_is_dropped(url):
    assert settings(api_url=url).api_url == "https://sluice.sh/api"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://[::1]:8000/api", "https://h"])
def test_hosts_ports_and_ipv6_are_urls(url):
    assert settings(api_url=url).api_url == url


# --- the development collector --------------------------------------------------------------------

HERE = "http://127.0.0.1:5580/api"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("on", ["1", "true", "YES", "on"])
def test_dev_needs_neither_key_nor_connection(on):
    for found in (resolve({}, {"SLUICE_DEV": on}), resolve({"dev": on}, {})):
        assert found.api_url == HERE
        assert found.api_key.reveal() == "sk_dev"
        assert found.connection_id == NOBODY == str(uuid.UUID(NOBODY, version=4))


def test_dev_as_a_parameter_is_a_flag_or_a_url():
    assert resolve({"dev": True}, {}).api_url == HERE
    assert resolve({"dev": "http://h:1"}, {"SLUICE_DEV": "http://i:2"}).api_url == "http://h:1/api"
    assert resolve(NEEDED | {"dev": False}, {"SLUICE_DEV": "1"}).api_key.reveal() == KEY


@pytest.mark.parametrize("off", ["0", "false", "No", "off", "", "  "])
def test_without_dev_a_key_is_required(off):
    found = resolve(NEEDED, {"SLUICE_DEV": off})
    assert (found.api_url, found.api_key.reveal()) == ("https://sluice.sh/api", KEY)
    assert "API key is missing" in refusal({}, {"SLUICE_DEV": off})


@pytest.mark.parametrize(
    "url",
    [
        *("http://h:5580", "http://h:5580/", "http://h:5580/api", "http://h:5580/api/"),
        *("http://h:5580/#tasks", "http://h:5580/?state=failed#now", "http://h:5580?"),
    ],
)
def test_dev_takes_the_url_of_the_page_or_of_the_api(url):
    assert resolve({}, {"SLUICE_DEV": url}).api_url == "http://h:5580/api"


def test_a_collector_may_be_behind_a_path_or_tls():
    assert resolve({"dev": "https://h/sluice/"}, {}).api_url == "https://h/sluice/api"


@pytest.mark.parametrize(
    ("given", "environ"),
    [
        ({"api_key": KEY}, {"SLUICE_DEV": "1"}),
        ({}, {"SLUICE_DEV": "1", "SLUICE_API_KEY": KEY}),
        ({"dev": True, "api_key": Secret(KEY)}, {}),
        ({"dev": "https://h"}, {"SLUICE_API_KEY": KEY}),
        ({"dev": True, "api_key": "not even a key"}, {}),
    ],
)
def test_a_real_key_never_goes_to_a_development_collector(given, environ):
    assert resolve(given, environ).api_key.reveal() == "sk_dev"


def test_a_connection_that_is_given_is_kept():
    assert resolve({"dev": True, "connection_id": CONNECTION}, {}).connection_id == CONNECTION
    environ = {"SLUICE_DEV": "1", "SLUICE_CONNECTION_ID": CONNECTION}
    assert resolve({}, environ).connection_id == CONNECTION
    assert "SLUICE_CONNECTION_ID" in refusal({}, {"SLUICE_DEV": "1", "SLUICE_CONNECTION_ID": "x"})


@pytest.mark.parametrize(
    ("given", "environ"),
    [
        ({"dev": True, "api_url": "https://a/api"}, {}),
        ({"dev": True, "api_url": "https://a/api"}, {"SLUICE_DEV": "0"}),
        ({"dev": "http://h", "api_url": HERE}, {"SLUICE_API_URL": "https://b"}),
    ],
)
def test_two_receivers_as_parameters_are_refused(given, environ):
    text = refusal(NEEDED | given, environ)
    assert "dev and api_url are both set" in text
    assert "Drop api_url to send them to the development collector, or dev to" in text


def test_two_receivers_as_variables_are_refused():
    text = refusal(NEEDED, {"SLUICE_DEV": "1", "SLUICE_API_URL": "https://a/api"})
    assert "Drop SLUICE_API_URL to" in text
    assert "or SLUICE_DEV to send" in text


def test_a_parameter_comes_before_the_other_ones_variable():
    found = resolve({"dev": True}, {"SLUICE_API_URL": "https://a/api"})
    assert (found.api_url, found.api_key.reveal()) == (HERE, "sk_dev")
    found = resolve(NEEDED | {"api_url": "https://a/api"}, {"SLUICE_DEV": "1"})
    assert (found.api_url, found.api_key.reveal()) == ("https://a/api", KEY)
    assert "API key is missing" in refusal({"api_url": "https://a/api"}, {"SLUICE_DEV": "1"})


def test_dev_that_is_off_leaves_the_other_variable_alone():
    environ = {"SLUICE_API_URL": "https://a/api", "SLUICE_DEV": "0"}
    assert resolve(NEEDED, environ).api_url == "https://a/api"
    assert resolve(NEEDED | {"dev": False}, environ).api_url == "https://a/api"


@pytest.mark.parametrize("place", ["/?token=", "/?state=failed&token=", "/#token="])
def test_a_token_in_the_url_is_refused_and_not_repeated(place):
    text = refusal({}, {"SLUICE_DEV": f"http://h:5580{place}s3cret"})
    assert "SLUICE_DEV has a token in it" in text
    assert "api_key" in text
    assert "s3cret" not in text


# --- off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environ", [{}, {"SLUICE_ENABLED": "1"}])
def test_disabled_looks_at_nothing_else(environ):
    nonsense = {name: object() for name, *_ in SOURCES} | {"api_key": object()}
    assert resolve(nonsense | {"enabled": False}, environ) is None


def test_disabled_by_its_variable():
    assert resolve({"api_key": "nonsense"}, {"SLUICE_ENABLED": "0"}) is None
    assert resolve(NEEDED | {"enabled": True}, {"SLUICE_ENABLED": "0"}) is not None


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "accepted"), BAD)
def test_a_bad_parameter_is_named_with_what_is_accepted(name, value, accepted):
    text = refusal(NEEDED | {name: value})
    assert text.startswith(f"[sluice] {name} ")
    assert accepted in text
    happened, _, _ = text.partition(". ")
    if name not in ("api_key", "api_url", "dev") and len(repr(value)) < 80:
        assert repr(value) in happened  # what was wrong


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [bad for bad in BAD if isinstance(bad[1], str) and bad[1].strip() == bad[1] != ""],
)
def test_a_bad_variable_is_named_as_a_variable(name, value, accepted):
    needed = {key: value for key, value in NEEDED.items() if key != name}
    text = refusal(needed, {variable(name): value})
    assert text.startswith(f"[sluice] {variable(name)} ")
    assert accepted in text


@pytest.mark.parametrize("name", ["api_key", "connection_id"])
def test_a_missing_setting_says_how_to_give_it(name):
    text = refusal({key: value for key, value in NEEDED.items() if key != name})
    assert "is missing" in text
    assert f"{name}='" in text
    assert variable(name) in text


def test_a_message_says_where_to_read_on():
    first, second = refusal({}).split("\n")
    assert first.startswith("[sluice] ")
    assert first.endswith(".")
    assert second.startswith("         See: https://")


def test_a_value_with_a_task_in_it_is_shown():
    assert "task_rings" in refusal(NEEDED | {"spool_dir": "task_rings"})


def test_a_long_value_is_shown_in_part():
    text = refusal(NEEDED | {"flush_interval": "x" * 10_000})
    assert "xxxxx\u2026" in text
    assert len(text) < 300


def test_the_error_is_a_value_error():
    assert issubclass(SluiceConfigError, ValueError)


@pytest.mark.parametrize("name", ["flush_interval", "buffer_bytes", "request_timeout"])
def test_a_number_beyond_floats_is_refused_as_any_other(name):
    assert refusal(NEEDED | {name: 10**400}).startswith(f"[sluice] {name} ")


@pytest.mark.parametrize("url", ["https://sluice.sh/api?", "https://sluice.sh/api#"])
def test_an_empty_query_or_fragment_is_refused_too(url):
    assert "query" in refusal(NEEDED | {"api_url": url})


# --- strict ---------------------------------------------------------------------------------------


def test_strict_is_known_while_other_settings_are_bad():
    assert is_strict({}, {}) is True
    assert is_strict({"strict": False, "api_key": 7}, {}) is False
    assert is_strict({}, {"SLUICE_STRICT": "0"}) is False
    assert is_strict({"strict": True}, {"SLUICE_STRICT": "0"}) is True


def test_a_malformed_strict_counts_as_strict():
    assert is_strict({"strict": "maybe"}, {}) is True
    assert is_strict({}, {"SLUICE_STRICT": "maybe"}) is True


# --- the key --------------------------------------------------------------------------------------


def test_settings_show_no_key():
    found = settings()
    for shown in (repr(found), str(found), f"{found}", pprint.pformat(found), f"{found.api_key}"):
        assert KEY not in shown
    assert repr(found.api_key) == str(found.api_key) == "Secret(***)"


def test_settings_as_a_dictionary_show_no_key():
    assert KEY not in repr(dataclasses.asdict(settings()))


def misplaced(value: str) -> list[tuple[str, object]]:
    """The key where it does not belong, in every way in which it is refused there."""
    names = [name for name, *_ in SOURCES if name not in ("api_url", "environment", "spool_dir")]
    names += ["enabled", "dev"]
    found: list[tuple[str, object]] = [(name, value) for name in names]
    found += [("request_timeout", (value, 5)), ("request_timeout", [value])]
    found += [("environment", value + "x" * 64), ("environment", f"{value}\n")]
    found += [("spool_dir", value), ("spool_dir", f"./{value}"), ("spool_dir", f"/{value}\0")]
    found += [
        ("api_url", url.format(value))
        for url in (
            "{}",
            "https://{}@sluice.sh",
            "https://u:{}@sluice.sh",
            "https://sluice.sh?key={}",
            "https://sluice.sh#{}",
            "https://sluice.sh:{}",
            "ftp://{}",
            "https://sluice.sh/{} ",
        )
    ]
    found += [("api_key", text) for text in (f"{value} ", f"Bearer {value}", f"'{value}'")]
    return found


@pytest.mark.parametrize(("name", "value"), misplaced(KEY))
def test_a_key_in_the_wrong_place_is_not_repeated(name, value):
    with pytest.raises(SluiceConfigError) as caught:
        resolve(NEEDED | {name: value}, {})
    error = caught.value
    assert KEY not in str(error)
    assert KEY not in repr(error)
    assert KEY not in "".join(traceback.format_exception(error))


@LAW
@given(
    key=st.text(st.sampled_from("sk_ab0'\"\\\n "), min_size=4, max_size=20).map("sk_{}".format),
    name=st.sampled_from(sorted({name for name, *_ in BAD})),
)
def test_no_message_repeats_what_may_be_a_key(key, name):
    shown = ""
    try:
        resolve(NEEDED | {name: key}, {})
    except SluiceConfigError as error:
        shown = str(error)
    assert key not in shown


def test_a_key_is_no_environment():
    assert KEY not in refusal(NEEDED | {"environment": KEY})


@pytest.mark.parametrize(
    ("dev", "proxied"),
    [
        *(
            (one, False)
            for one in ("1", "http://127.0.0.1:5590", "http://localhost", "http://[::1]")
        ),
        *((one, True) for one in ("0", "http://collector.example", "http://10.0.0.1:5580/api")),
    ],
)
def test_a_proxy_is_asked_for_everything_but_a_collector_on_this_machine(dev, proxied):
    known = {"SLUICE_API_KEY": KEY, "SLUICE_CONNECTION_ID": CONNECTION, "SLUICE_DEV": dev}
    settings = resolve({}, known)
    assert settings is not None
    assert settings.proxied is proxied
