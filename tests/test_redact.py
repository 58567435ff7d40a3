"""What looks like a secret is gone, the rest of a text stays, and a hostile one costs little."""

from __future__ import annotations

import inspect
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.redact import REPLACEMENT, redact
from tests.doubles import LAW, TEXT

S = "hunter2-Tr0ub4dor"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nq83vASNF\n-----END RSA PRIVATE KEY-----"


KEY = "Tr0ub4dor" * 5
NAMES = [
    *("password", "passwd", "passphrase", "passcode", "secret", "token", "credential"),
    *("authorization", "apikey", "access_key", "account-key", "authkey", "encryption_key"),
    *("license_key", "master_key", "private_key", "secret key", "signing_key", "ssh_key"),
    *("session_id", "JSESSIONID", "PHPSESSID", "auth", "pass", "pwd", "pin", "otp", "cvv"),
    *("cvv2", "cvc", "cvc2", "ssn", "dsn", "sig", "signature", "csrf", "xsrf", "sid"),
]
PROVIDERS = [
    *("sk_live_", "sk_test_", "pk_live_", "rk_live_", "whsec_", "sk-", "sk-proj-"),
    *("ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "pypi-"),
    *("xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-", "xapp-1-"),
    *("AKIA", "ASIA", "AIza", "SG.", "hvs.", "ya29.", "npm_"),
]


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
        f"sent as Basic {S}",
        f"auth=Bearer {S}",
        f"access_token: token {S}",
        f"Cookie: session={S}; other={S}",
        f"Set-Cookie: sid={S}; HttpOnly",
        f"mysql --password {S} -h db",
        f"--api-key={S}",
        f"redis://:{S}@cache:6379/0",
        f"amqp://user:{S}@broker//",
        f"postgresql+psycopg://u:{S}@db/x?sslmode=require",
        f"https://user:{S}@example.org/path",
        f"cvv: 123{S}",
        # Every part of a name that counts.
        *(f"{name}={S}" for name in NAMES),
        *(f"{name}: '{S}'" for name in NAMES),
        # What begins like a provider's key.
        *(f"Invalid key: {begin}{KEY} (see the docs)" for begin in PROVIDERS),
        # Lists, mappings and calls, and what holds them.
        f'{{"tokens": ["{S}", "b{S}"], "n": 1}}',
        f'{{"tokens": [\n    "{S}",\n    "b{S}"\n  ]}}',
        f'{{"credentials": {{"user": "bob", "seed": "{S}"}}}}',
        f'{{"auth": {{"a": {{"b": 1}}, "password": "{S}"}}}}',
        f"User(name='bob', password=SecretStr('{S}'))",
        f"{{'password': ['a ] b', '{S}']}}",
        f"password=({S})",
        f"os.environ['DB_PASSWORD'] = '{S}'",
        f"user[password]={S}&user[name]=bob",
        f"password[]={S}",
        f"next=/a%3Fpassword%3D{S}%26b",
        # Headers whose value has a form of its own.
        f'Authorization: Token token="{S}"',
        f"Authorization: ApiKey {S}",
        f'Authorization: Digest username="Bob", realm="r", response="{S}"',
        f"Authorization: AWS4-HMAC-SHA256 Credential=x/y, SignedHeaders=h;r, Signature={S}",
        f"Proxy-Authorization: Basic {S}",
        f"[(b'authorization', b'Bearer {S}')]",
        f"('Cookie', 'sid={S}')",
        f"cookies={{'a': '{S}'}}",
        # Elements and their attributes.
        f"<Password>{S}</Password>",
        f"<card><pin>{S}</pin></card>",
        f"<ns:apiKey>{S}</ns:apiKey>",
        f'<user password="{S}"/>',
        # Connection strings.
        f"Server=db;User Id=sa;Password={S};Encrypt=yes",
        f"AccountName=a;AccountKey={S}==;EndpointSuffix=x",
        f"host=db user=app password='{S} and more' dbname=x",
        f"https://a.blob.example/c?sv=2020&sig={S}",
        f"mongodb+srv://root:{S}@cluster.example/?w=majority",
        f"https://u:p@ss{S}@example.org/a@b",
        f"Port could not be cast: postgres://app:a/b{S}@db/x",
    ],
)
def test_a_secret_is_gone(text):
    assert S not in redact(text)
    assert KEY not in redact(text)
    assert REPLACEMENT in redact(text)


ENCRYPTED_JWT = "eyJhbGciOiJSU0EifQ.UGhIOguC7IuEvf_NPVaX.AxY8DCtDaGlsbGlj.KDlTtXchhZTGufMY.XFBoMYUZ"


@pytest.mark.parametrize(
    "text", [JWT, f"token {JWT}.", f"({JWT})", f"jwt={JWT}", f"no key for {ENCRYPTED_JWT}"]
)
def test_a_jwt_is_gone(text):
    parts = JWT.split(".") + ENCRYPTED_JWT.split(".")
    assert all(part not in redact(text) for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        *(PEM, f"key: {PEM}\nrest", PEM.replace("-----END", "truncated")),
        *(PEM.replace("RSA", kind) for kind in ("OPENSSH", "EC", "ENCRYPTED")),
        PEM.replace("RSA ", ""),
        PEM.replace("RSA", "PGP").replace("KEY", "KEY BLOCK"),
        PEM.replace("RSA", "SSH2")
        .replace("-----BEGIN", "---- BEGIN")
        .replace("KEY-----", "KEY ----"),
        PEM.replace("\n", "\r\n"),
        repr(PEM),
    ],
)
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
    block = PEM.replace("RSA", "PGP").replace("KEY", "KEY BLOCK")
    assert redact(f"before\n{block}\nafter") == f"before\n{REPLACEMENT}\nafter"


@pytest.mark.parametrize(
    "number",
    [
        *("4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005"),
        *("5555555555554444", "6011111111111117", "2223003122003222", "30569309025904"),
        *("4222222222222", "4111\xa01111\xa01111\xa01111", "3782 822463 10005"),
    ],
)
def test_a_card_number_is_gone(number):
    assert redact(f"card {number} was declined") == f"card {REPLACEMENT} was declined"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("amount 5 4111111111111111 EUR", f"amount 5 {REPLACEMENT} EUR"),
        ("4111111111111111 12/27", f"{REPLACEMENT} 12/27"),
        ("4111 1111 1111 1111 12/27 123", f"{REPLACEMENT} 12/27 123"),
        ("30 4111 1111 1111 1111 1", f"30 {REPLACEMENT} 1"),
        ("5 4111 1111 1111 1111 1", f"5 {REPLACEMENT} 1"),
        ("378282246310005 1 28", f"{REPLACEMENT} 1 28"),
        ("4111111111111111, 378282246310005", f"{REPLACEMENT}, {REPLACEMENT}"),
    ],
)
def test_a_card_number_is_gone_from_among_other_numbers(text, left):
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112 has a wrong check digit",
        "at 1700000000000 ms, for 1763820000.123456 s",
        "task 45961a8c-1d54-41ed-af4e-8fc48b959485 of 2026-11-22T14:57:51.218082Z",
        "41111111111111111111 is too long",
        "41111111111111111800 is too long",
        "0.4111111111111111 of it",
        "at 1700000000004 ms, that is 4 1700000000004 later",
        "task-45961a8c-1d54-41ed-af4e-8fc48b959485",
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
        'violates foreign key constraint "pk_orders_customers_id" on table "sk_orders_of_today"',
        "column primary_key=5, sort_key: 7, foreign key: orders",
        "sk-learn-compatible-estimator is missing, npm_config_cache_directory too",
        "tokens=[], credentials={}, auth=()",
        "login() missing 1 required positional argument: 'password'",
        "<Task: send_token_mail> <token_id >",
        "http://10.0.0.1:8080/a@b http://[::1]:8080/a@b http://host:80?x=@",
        "an array 4 5 6 4 5 6 3 3 4 5 3 3 4 5",
        "mysql --password --host db",
        "usage: tool <password> <host>",
        "Authorization failed, the signature has expired",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_the_name_stays_and_what_comes_behind():
    assert redact(f"login(user='x', password='{S}', tries=3)") == (
        f"login(user='x', password={REPLACEMENT}, tries=3)"
    )
    assert redact(f"tokens=['{S}'], tries=3") == f"tokens={REPLACEMENT}, tries=3"
    assert redact(f"authorization: '{S}', n=1") == f"authorization: {REPLACEMENT}, n=1"
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


#: What stands before a text makes it one that is not ASCII, and touches nothing of it.
NOT_ASCII = "é\n"
PIECES = [
    *(S, JWT, PEM, KEY, *NAMES, *PROVIDERS, *map(str.upper, NAMES), "4111 1111 1111 1111"),
    *("bearer ", "Basic ", "Cookie", "2223000048400011", "--", "://", *"=:'\"[]()<>@,_- \n\\x7"),
]


@LAW
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_where_a_secret_can_begin_is_known(pieces):
    """Beginnings are searched for in ASCII only: elsewhere the patterns do it all by themselves."""
    text = "".join(pieces)
    assert NOT_ASCII + redact(text) == redact(NOT_ASCII + text)


def test_a_traceback_is_not_tried_at_every_character():
    """It holds up the loop of a green pool: 11 ms where all patterns were, and 1.5 now."""
    lines = inspect.getsource(inspect).splitlines()[:400:2]
    text = "".join(f'  File "/x/inspect.py", line 1, in f\n    {line.strip()}\n' for line in lines)
    assert text.isascii()
    assert 2 * _seconds(text) < _seconds(NOT_ASCII + text)


def _seconds(text: str) -> float:
    """What it takes of a processor."""
    best = float("inf")
    for _ in range(3):
        begin = time.thread_time()
        redact(text)
        best = min(best, time.thread_time() - begin)
    return best


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
    "keys": "sk_live_",
    "keys with a dash": "sk-",
    "lists": "password=[",
    "calls": "password=a(",
    "lists of quotes": "password=['",
    "lists of lines": "tokens: [\n",
    "closed lists": "password=[a]",
    "indexed names": "password[",
    "elements": "<password",
    "element begins": "<a-",
    "open elements": "<password>",
    "headers": "authorization:",
    "users with an at": "a://b:c@",
    "users with a slash": "a://b:c/",
    "encoded": "token%3D",
    "blocks": "---- BEGIN PRIVATE KEY ----",
    "groups of digits": "4 444444444444 ",
    "a card and its month": "4111 1111 1111 1112 12/27 ",
    "long dashes": "-",
    "spaces": " ",
    "newlines": "\n",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_time_grows_with_the_length_and_no_faster(unit):
    """Eight times the text, about eight times the time: a square would be 64 times."""

    def cost(length: int) -> float:
        return _seconds((unit * (length // len(unit) + 1))[:length])

    small, large = cost(32_000), cost(256_000)
    assert large < 24 * small + 0.02


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_a_megabyte_takes_no_second(unit):
    text = (unit * (1 << 20))[: 1 << 20]
    begin = time.thread_time()
    redact(text)
    assert time.thread_time() - begin < 3
