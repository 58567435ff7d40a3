"""What looks like a secret is gone, the rest of a text stays, and a hostile one costs little."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.redact import REPLACEMENT, redact
from tests.doubles import LAW, TEXT

S = "hunter2-Tr0ub4dor"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nq83vASNF\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"password={S}",
        f"password = {S}",
        f"DB_PASSWORD={S}",
        f"db.password: {S}",
        f"passwd:{S}",
        f"PGPASSWORD='{S}'",
        f"user_password_2={S}",
        f"pwd={S}",
        f"pass={S}",
        f"auth={S}",
        f"client_secret={S}&grant=x",
        f"?access_token={S}&page=2",
        f"apikey={S}",
        f"api-key: {S}",
        f"X-Api-Key: {S}",
        f"AWS_SECRET_ACCESS_KEY={S}",
        f"private_key={S}",
        f"sessionid={S}",
        f'{{"password": "{S}"}}',
        f'{{"password":"{S}"}}',
        f"{{'password': '{S}'}}",
        f"{{'password': b'{S}'}}",
        f'{{"secretToken" : "{S}"}}',
        f'"{{\\"password\\": \\"{S}\\"}}"',
        f'\'{{\\\\"password\\\\": \\\\"{S}\\\\"}}\'',
        f"[('password', '{S}')]",
        f"password => '{S}'",
        f'password="with \\" a quote {S}"',
        f'password="no end {S}',
        f"connect(host='db', password='{S}', port=5)",
        f"Authorization: Bearer {S}",
        f"authorization: Basic {S}",
        f"Authorization: {S}",
        f"'Authorization': 'Token {S}'",
        f"bearer {S}",
        f"Cookie: session={S}; other={S}",
        f"Set-Cookie: sid={S}; HttpOnly",
        f"mysql --password {S} -h db",
        f"--api-key={S}",
        f"redis://:{S}@cache:6379/0",
        f"amqp://user:{S}@broker//",
        f"postgresql+psycopg://u:{S}@db/x?sslmode=require",
        f"https://user:{S}@example.org/path",
        f"cvv: 123{S}",
        f"key is sk_live_{S}{S}",
        f"ghp_{S}{S}",
    ],
)
def test_a_secret_is_gone(text):
    assert S not in redact(text)
    assert REPLACEMENT in redact(text)


@pytest.mark.parametrize("text", [JWT, f"token {JWT}.", f"({JWT})", f"jwt={JWT}"])
def test_a_jwt_is_gone(text):
    assert all(part not in redact(text) for part in JWT.split("."))


@pytest.mark.parametrize("text", [PEM, f"key: {PEM}\nrest", PEM.replace("-----END", "truncated")])
def test_a_private_key_is_gone(text):
    assert "MIIE" not in redact(text)
    assert "q83v" not in redact(text)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("    password = settings.password", True),
        (f"    login(token=token, password='{S}')", False),
        (f"    token = get(f'{S}')", True),
        (f'    engine = create("pg://u:{S}@db")', False),
    ],
)
def test_a_line_of_code_loses_what_is_written_out_and_no_names(line, kept):
    assert (redact(line, code=True) == line) is kept
    assert kept or S not in redact(line, code=True)


def test_what_follows_a_private_key_stays():
    assert redact(f"before\n{PEM}\nafter") == f"before\n{REPLACEMENT}\nafter"


@pytest.mark.parametrize(
    "number",
    [
        *("4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005"),
        *("5555555555554444", "6011111111111117", "2223003122003222", "30569309025904"),
    ],
)
def test_a_card_number_is_gone(number):
    assert redact(f"card {number} was declined") == f"card {REPLACEMENT} was declined"


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112 has a wrong check digit",
        "at 1700000000000 ms, for 1763820000.123456 s",
        "task 45961a8c-1d54-41ed-af4e-8fc48b959485 of 2026-11-22T14:57:51.218082Z",
        "41111111111111111111 is too long",
        "author=Bob, compass=north, shipping=fast, spinner: 3",
        "password=None, token: null, secret=False",
        "the password was wrong",
        "no token was given: log in first",
        "KeyError: 'password'",
        "https://example.org:8080/path?a=b@c",
        "user@example.org: no such mailbox",
        "eyJ is how such a thing begins",
        "basic rules, bearer of news",
        '  File "/app/passwords.py", line 12, in check_password',
        "monkey=banana, keyboard: qwerty",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_the_name_stays_and_what_comes_behind():
    assert redact(f"login(user='x', password='{S}', tries=3)") == (
        f"login(user='x', password={REPLACEMENT}, tries=3)"
    )
    assert redact(f"amqp://guest:{S}@host/") == f"amqp://guest:{REPLACEMENT}@host/"


@LAW
@given(before=TEXT, after=TEXT, value=st.text("abcXYZ019_.-", min_size=1, max_size=40))
def test_a_value_in_quotes_is_gone_whatever_is_around_it(before, after, value):
    marked = f"«{value}»"
    assert marked not in redact(f'{before}\n"password": "{marked}"\n{after}')


@LAW
@given(text=TEXT)
def test_a_second_time_changes_nothing(text):
    assert redact(redact(text)) == redact(text)


HOSTILE = {
    "words": "a",
    "names": "password",
    "names with a sign": "password=",
    "open quotes": 'password="',
    "closed by the other": "token='\"",
    "escaped quotes": 'secret=\\"',
    "backslashes": 'secret="\\',
    "commas": "'password','",
    "urls": "a://",
    "urls with colons": "a://:",
    "users": "a://b:",
    "at signs": "a:@",
    "digits": "4",
    "digits with spaces": "4 ",
    "token begins": "eyJ",
    "token runs": "eyJaaaaa.",
    "token dashes": "-eyJ",
    "private keys": "-----BEGIN PRIVATE KEY-----",
    "dashes": "-----BEGIN ",
    "options": "--password ",
    "option dashes": "--",
    "cookies": "cookie:",
    "bearers": "bearer ",
    "keys": "sk_",
    "spaces": " ",
    "newlines": "\n",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_time_grows_with_the_length_and_no_faster(unit):
    """Eight times the text, about eight times the time: a square would be 64 times."""

    def cost(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        best = float("inf")
        for _ in range(3):
            begin = time.thread_time()
            redact(text)
            best = min(best, time.thread_time() - begin)
        return best

    small, large = cost(32_000), cost(256_000)
    assert large < 24 * small + 0.02


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_a_megabyte_takes_no_second(unit):
    text = (unit * (1 << 20))[: 1 << 20]
    begin = time.thread_time()
    redact(text)
    assert time.thread_time() - begin < 3
