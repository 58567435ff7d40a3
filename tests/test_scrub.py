"""What may leave an error text: no argument of four characters or more, and all of the rest."""

from __future__ import annotations

import ast
import datetime as dt
import decimal
import json
import time
import traceback
import uuid
from urllib.parse import quote

import pytest
from celery import Celery
from celery.exceptions import MaxRetriesExceededError
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sluice.arguments import _FEW, REPLACEMENT, WITHHELD, Arguments, Values, _printed
from sluice.events import ERROR_LIMIT, EXTENSION_LIMIT, STACKTRACE_LIMIT, UNKNOWN_FIELDS_LIMIT
from sluice.scrub import error_text, stacktrace, unknown_fields
from tests.doubles import LAW

#: Its check digit is wrong: a right one is taken for what it looks like, argument or not.
CARD = "4111-1111-1111-1112"

# Values that have nothing in common with the mark that replaces them, so that finding one in a
# text says that it survived there.
_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="[]argument")
VALUES = st.one_of(
    st.text(_CHARACTERS, min_size=4, max_size=12),
    st.integers(1000, 10**18) | st.integers(-(10**18), -1000),
    st.floats(min_value=1000, max_value=1e15),
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)


def leaves(tree: object) -> list[str]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for node in tree for leaf in leaves(node)]
    return [str(tree)]


@st.composite
def calls_and_texts(draw):
    """A call's arguments, and a text that quotes them as programs do."""
    args, kwargs = draw(st.tuples(TREES)), draw(st.dictionaries(st.text(max_size=3), TREES))
    values = leaves([args, kwargs]) or ["nothing"]
    quoted = st.sampled_from(values) | st.sampled_from(values).map(repr)
    whole = st.sampled_from([str(args), repr(kwargs), f"{args!r}"])
    parts = st.lists(quoted | whole | st.text(_CHARACTERS, max_size=6), max_size=12)
    return args, kwargs, draw(st.sampled_from(["", " ", "\n", "\n  "])).join(draw(parts))


def traceback_of(function, *args):
    with pytest.raises(Exception) as caught:
        function(*args)
    return "".join(traceback.format_exception(caught.value))


def fail_with(message):
    raise ValueError(message)


def frame_lines(trace: str) -> list[str]:
    """The lines of a traceback that show a file, and those below with its source."""
    found: list[str] = []
    inside = False
    for line in trace.split("\n"):
        inside = line.startswith('  File "') or (inside and line.startswith("    "))
        if inside:
            found.append(line)
    return found


# --- error texts ----------------------------------------------------------------------------------


@LAW
@given(call=calls_and_texts())
def test_no_argument_survives_in_an_error_text(call):
    args, kwargs, text = call
    sent = error_text(text, Arguments(args, kwargs))
    for value in leaves([args, kwargs]):
        assert value not in sent
        assert repr(value)[1:-1] not in sent


@LAW
@given(call=calls_and_texts())
def test_scrubbing_again_changes_nothing(call):
    args, kwargs, text = call
    arguments = Arguments(args, kwargs)
    once = error_text(text, arguments)
    assert error_text(once, arguments) == once


@LAW
@given(call=calls_and_texts(), text=st.text(_CHARACTERS, max_size=40))
def test_a_text_without_arguments_stays_as_it_is(call, text):
    args, kwargs, _ = call
    values = leaves([args, kwargs])
    assume(not any(v in text or repr(v)[1:-1] in text for v in values))
    # But for NUL, which PostgreSQL takes in no text.
    assert error_text(text, Arguments(args, kwargs)) == text.replace(
        "\0", "\N{REPLACEMENT CHARACTER}"
    )


def test_an_argument_leaves_a_mark_where_it_was():
    arguments = Arguments((CARD,), {"amount": 123456})
    assert (
        error_text(f"card {CARD}: 123456 refused", arguments)
        == f"card {REPLACEMENT}: {REPLACEMENT} refused"
    )


def test_an_argument_inside_another_does_not_save_the_rest_of_it():
    arguments = Arguments(("4111", CARD), {})
    assert error_text(f"bad {CARD}!", arguments) == f"bad {REPLACEMENT}!"


def test_words_of_three_letters_are_no_secrets():
    arguments = Arguments(("eur", 123), {"a": True})
    assert error_text("123 eur True None", arguments) == "123 eur True None"


@pytest.mark.parametrize(
    "value",
    [
        "it's 4 o'clock",
        "\"both\" and 'both'",
        "two\nlines",
        "tab\there",
        "back\\slash",
        "nul\0inside",
    ],
)
def test_a_value_that_repr_escapes_is_found_in_both_forms(value):
    arguments = Arguments(([value],), {})
    sent = error_text(f"{value} | {value!r} | {[value]}", arguments)
    assert value not in sent
    assert repr(value)[1:-1] not in sent


@pytest.mark.parametrize("container", [list, tuple, set, frozenset, lambda x: {"k": [{"k": x}]}])
def test_values_are_found_at_any_depth(container):
    nested = container([CARD]) if not isinstance(container([CARD]), dict) else container(CARD)
    assert CARD not in error_text(f"no such card: {CARD}", Arguments((nested,), {}))


def test_bytes_are_read_as_text():
    assert CARD not in error_text(repr(CARD.encode()), Arguments((CARD.encode(),), {}))


def test_the_reprs_of_a_message_are_removed_whole():
    arguments = Arguments(None, None, "('a', 'b', ...)", None)
    assert error_text("called with ('a', 'b', ...)", arguments) == f"called with {REPLACEMENT}"


@pytest.mark.parametrize("args", [None, "text", 7, ()])
def test_arguments_of_any_shape_are_read(args):
    assert error_text("nothing here", Arguments(args, None)) == "nothing here"


def test_the_text_of_exceeded_retries_has_no_arguments():
    app = Celery("scrub", set_as_current=False, broker="memory://")

    @app.task(bind=True, max_retries=0, name="scrub.charge")
    def charge(self, card, *, owner):
        raise self.retry()

    charge.push_request(
        args=(CARD,), kwargs={"owner": "Ann"}, id="the-id", retries=1, called_directly=False
    )
    with pytest.raises(MaxRetriesExceededError) as caught:
        charge.retry()
    text = str(caught.value)
    assert CARD in text
    assert error_text(text) == "Can't retry scrub.charge[the-id]"


def test_arguments_of_exceeded_retries_may_have_lines_of_their_own():
    text = "Can't retry a.b[id] args:(<Order\nof Ann>,) kwargs:{}"
    assert error_text(text) == "Can't retry a.b[id]"


def test_only_the_text_of_exceeded_retries_ends_before_its_arguments():
    text = "call[7] args: three were expected"
    assert error_text(text) == text


def test_exceeded_retries_lose_their_arguments_in_every_link_of_a_chain():
    link = f"MaxRetriesExceededError: Can't retry t[id] args:('{CARD}',\n'x') kwargs:{{}}"
    cause = "\n\nThe above exception was the direct cause of the following exception:\n\n"
    during = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
    clean = "MaxRetriesExceededError: Can't retry t[id]"
    assert (
        stacktrace(f"{link}{cause}{link}{during}KeyError")
        == f"{clean}{cause}{clean}{during}KeyError"
    )


# --- tracebacks -----------------------------------------------------------------------------------


@LAW
@given(call=calls_and_texts())
def test_no_argument_survives_in_the_messages_of_a_traceback(call):
    args, kwargs, text = call
    trace = traceback_of(fail_with, text)
    frames = frame_lines(trace)
    values = leaves([args, kwargs])
    assume(not any(line.startswith('  File "') for line in text.split("\n")))
    assume(not any(v in line or repr(v)[1:-1] in line for v in values for line in frames))
    sent = stacktrace(trace, Arguments(args, kwargs))
    for value in values:
        assert value not in sent
        assert repr(value)[1:-1] not in sent


@LAW
@given(call=calls_and_texts())
def test_a_traceback_keeps_its_files_and_source_lines(call):
    args, kwargs, text = call
    assume(not any(line.startswith('  File "') for line in text.split("\n")))
    trace = traceback_of(fail_with, text)
    sent = stacktrace(trace, Arguments(args, kwargs))
    assert frame_lines(sent)[: len(frame_lines(trace))] == frame_lines(trace)


def test_a_path_stays_readable_where_an_argument_is_a_word_of_it():
    trace = traceback_of(fail_with, "tests and fail_with and ValueError")
    sent = stacktrace(trace, Arguments(("tests", "fail_with"), {}))
    assert frame_lines(sent) == frame_lines(trace)
    assert sent.endswith(f"ValueError: {REPLACEMENT} and {REPLACEMENT} and ValueError\n")


def test_indented_messages_such_as_those_of_pydantic_are_searched():
    message = (
        "1 validation error for Payment\ncard\n"
        f"  Input should be valid [type=card, input_value='{CARD}', input_type=str]\n"
        f"    For further information: {CARD}\n\tand {CARD}"
    )
    sent = stacktrace(traceback_of(fail_with, message), Arguments((CARD,), {}))
    assert CARD not in sent
    assert f"  Input should be valid [type=card, input_value='{REPLACEMENT}', input_type" in sent
    assert f"    For further information: {REPLACEMENT}" in sent


def test_an_argument_of_several_lines_is_found_in_a_message():
    value = "first line\nsecond line"
    trace = traceback_of(fail_with, f"cannot read {value}!")
    assert stacktrace(trace, Arguments((value,), {})).endswith(f"cannot read {REPLACEMENT}!\n")


SHOWN = (
    'Traceback (most recent call last):\n  File "/srv/pay.py", line 3, in pay\n    card = "{}"\n'
)


@pytest.mark.parametrize(
    "arguments",
    [
        (SHOWN.format(CARD) + "KeyError: 1",),
        (SHOWN.format(CARD).splitlines(keepends=True),),
        (SHOWN.format(CARD).splitlines(),),
    ],
    ids=["one text", "as Python formats it", "line by line"],
)
def test_a_traceback_that_was_an_argument_is_none_of_ours(arguments):
    trace = traceback_of(fail_with, f"cannot post this:\n{SHOWN.format(CARD)}KeyError: 1")
    sent = stacktrace(trace, Arguments(arguments, {}))
    frames = frame_lines(traceback_of(fail_with, "x"))
    assert CARD not in sent
    assert "/srv/pay.py" not in sent
    assert frame_lines(sent)[: len(frames)] == frames


def test_what_passes_for_a_frame_is_withheld_with_the_message_of_too_many_arguments():
    trace = traceback_of(fail_with, f"cannot post this:\n{SHOWN.format(CARD)}KeyError: 1")
    sent = stacktrace(trace, Arguments(([[n] for n in range(100_000)], SHOWN.format(CARD)), {}))
    assert CARD not in sent
    assert "in fail_with" in sent


STATEMENT = (
    "(pymysql.err.DataError) (1406, 'Data too long')\n[SQL: UPDATE celery_taskmeta SET result=%s]\n"
    "[parameters: {{'status': 'SUCCESS', 'result': {}}}]"
)
BACKGROUND = "\n(Background on this error at: https://sqlalche.me/e/20/9h9h)"


@pytest.mark.parametrize("result", [f"b'{CARD}'", f"<a result\n  of lines {CARD}>"])
@pytest.mark.parametrize("background", [BACKGROUND, ""])
def test_the_parameters_of_a_statement_are_cut(result, background):
    """Celery's own, when it cannot store a result: which is one of them, and no argument."""
    text = STATEMENT.format(result) + background
    if background or "\n" not in result:
        assert error_text(text) == STATEMENT.partition("{{")[0] + "...]" + background
    behind = (
        "\n\nDuring handling of the above exception, another exception occurred:\n\nKeyError: 1"
    )
    sent = stacktrace(f"{SHOWN.format('x')}{text}{behind}")
    assert sent.endswith(behind)
    if background or "\n" not in result:
        assert CARD not in sent


def test_notes_and_causes_are_searched():
    def fail():
        try:
            fail_with(f"cause {CARD}")
        except ValueError as error:
            error.add_note(f"note {CARD}")
            raise KeyError(CARD) from error

    assert CARD not in stacktrace(traceback_of(fail), Arguments((CARD,), {}))


def test_a_group_of_exceptions_is_searched():
    def fail():
        raise ExceptionGroup(f"all of {CARD}", [ValueError(CARD), KeyError(f"x\n{CARD}")])

    assert CARD not in stacktrace(traceback_of(fail), Arguments((CARD,), {}))


# --- caps -----------------------------------------------------------------------------------------


@LAW
@given(size=st.integers(0, 3 * ERROR_LIMIT))
def test_an_error_text_keeps_its_beginning_within_the_limit(size):
    text = "".join(chr(0x4E00 + n % 1000) for n in range(size))
    sent = error_text(text)
    assert len(sent) <= ERROR_LIMIT
    assert sent == text if size <= ERROR_LIMIT else sent == text[: ERROR_LIMIT - 1] + "\u2026"


@pytest.mark.parametrize("size", [STACKTRACE_LIMIT, STACKTRACE_LIMIT + 1, 3 * STACKTRACE_LIMIT])
def test_a_traceback_keeps_its_end_within_the_limit(size):
    text = ("x" * size)[:-15] + "\nValueError: bad"
    sent = stacktrace(text)
    assert len(sent) == STACKTRACE_LIMIT
    assert sent.endswith("xx\nValueError: bad")
    assert stacktrace(sent) == sent


@pytest.mark.parametrize("before", [ERROR_LIMIT, 2 * ERROR_LIMIT])
@pytest.mark.parametrize("inside", [8, 3])
def test_a_cut_through_an_argument_lets_no_half_of_it_through(before, inside):
    sent = error_text(f"{'-' * (before - inside)}{CARD}", Arguments((CARD,), {}))
    assert set(sent) <= set("-\u2026" + REPLACEMENT)


@pytest.mark.parametrize("behind", [STACKTRACE_LIMIT, 2 * STACKTRACE_LIMIT])
@pytest.mark.parametrize("inside", [8, 3])
def test_a_cut_through_an_argument_at_the_front_lets_no_half_of_it_through(behind, inside):
    sent = stacktrace(f"{CARD}{'-' * (behind - inside)}", Arguments((CARD,), {}))
    assert set(sent) <= set("-\u2026" + REPLACEMENT)


# --- time -----------------------------------------------------------------------------------------

MEGABYTE = 1_000_000
HOSTILE = {
    "nothing special": "x",
    "retries without an end": "Can't retry ",
    "retries with an end": "Can't retry t[id] args:",
    "brackets": "Can't retry x" + "] " * 50,
    "links of a chain": "Can't retry t[id] args:\n\nDuring handling",
    "parameters without an end": "[parameters: ",
    "parameters of a line": "[parameters: \n",
    "parameters with an end": "[parameters: \n(Background on this error",
    "an end to parameters": "\n(Background on this error",
    "empty lines": "\n",
    "frames": '  File "a.py", line 1\n    x\n',
    "the arguments": "value-0 value-99 ",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("scrubbed", [error_text, stacktrace], ids=["error", "traceback"])
def test_a_megabyte_takes_no_time(scrubbed, unit):
    text = unit * (MEGABYTE // len(unit))
    arguments = Arguments([f"value-{n}" for n in range(100)], {})
    begun = time.process_time()
    scrubbed(text, arguments)
    assert time.process_time() - begun < 1.0  # some milliseconds; hours where it is quadratic


def test_an_endless_tree_of_arguments_takes_no_time():
    tree: list[object] = []
    tree.append(tree)
    begun = time.process_time()
    Arguments((tree, list(range(10**6)), {"k": "x" * MEGABYTE}), {})
    assert time.process_time() - begun < 1.0


# --- fields of a future Celery --------------------------------------------------------------------

KNOWN = frozenset(("uuid", "runtime"))
DATA = (
    *("args", "argsrepr", "kwargs", "kwargsrepr", "result", "retval", "return_value", "body"),
    *("payload", "headers", "properties", "stamps", "chord", "callbacks", "errbacks", "meta"),
    "data",
)


@LAW
@given(
    fields=st.dictionaries(
        st.text(max_size=8) | st.sampled_from([*DATA, *KNOWN]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(),
            st.just(CARD),
            st.binary(),
            st.lists(st.integers()),
            st.dictionaries(st.text(), st.text()),
            st.builds(object),
        ),
        max_size=40,
    )
)
def test_unknown_fields_are_scalars_only_and_never_a_tasks_data(fields):
    taken = unknown_fields(fields, KNOWN, Arguments((CARD,), {}))
    assert set(taken) <= set(fields) - KNOWN - set(DATA)
    assert all(value is None or isinstance(value, (str, int, float)) for value in taken.values())
    assert len(taken) <= UNKNOWN_FIELDS_LIMIT
    assert CARD not in json.dumps(taken)
    wanted = [k for k, v in fields.items() if v is None or isinstance(v, (str, int, float))]
    wanted = [k for k in wanted if k not in KNOWN and k not in DATA]
    assert list(taken) == wanted[:UNKNOWN_FIELDS_LIMIT]


def test_unknown_fields_are_capped():
    taken = unknown_fields({"n" * 600: "v" * 600}, KNOWN)
    ((name, value),) = taken.items()
    assert len(name) == len(value) == EXTENSION_LIMIT
    assert len(unknown_fields({str(n): n for n in range(50)}, KNOWN)) == UNKNOWN_FIELDS_LIMIT == 20


def test_the_name_of_an_unknown_number_is_capped_too():
    (name,) = unknown_fields({"n" * 5_000: 7}, frozenset())
    assert len(name) <= EXTENSION_LIMIT


@pytest.mark.parametrize("name", DATA)
def test_a_tasks_data_is_never_taken_under_any_name(name):
    assert unknown_fields({name: CARD, "other": 1}, KNOWN) == {"other": 1}


def test_an_unknown_field_is_scrubbed_as_an_error_text():
    taken = unknown_fields(
        {"note": f"card {CARD}", "n": 7, "b": True, "none": None}, KNOWN, Arguments((CARD,), {})
    )
    assert taken == {"note": f"card {REPLACEMENT}", "n": 7, "b": True, "none": None}


# --- what slipped through once --------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_a_long_argument_is_found_although_the_text_is_cut(times):
    value = "".join(f"{n:05d}" for n in range(5000 if times == 1 else 3000))
    sent = error_text(" ".join([value] * times), Arguments((value,), {}))
    assert "0000100002" not in sent


def test_a_long_argument_is_found_although_the_traceback_is_cut():
    value = "".join(f"{n:05d}" for n in range(25_000))
    sent = stacktrace(traceback_of(fail_with, value), Arguments((value,), {}))
    assert "2499824999" not in sent


def test_the_last_of_many_arguments_is_found():
    owners = [f"user{n}@example.org" for n in range(500)]
    assert owners[-1] not in error_text(f"no such user: {owners[-1]}", Arguments((owners,), {}))


def test_an_argument_that_was_parsed_as_code_is_found():
    assert CARD not in stacktrace(
        traceback_of(ast.literal_eval, f"{CARD} x"), Arguments((f"{CARD} x",), {})
    )


@pytest.mark.parametrize(
    "value",
    [
        uuid.UUID(int=77),
        decimal.Decimal("4111.1111"),
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        dt.date(2026, 1, 2),
    ],
)
def test_what_kombu_decodes_from_json_is_found(value):
    assert str(value) not in error_text(f"bad value {value}", Arguments((value,), {}))


def test_the_keys_of_a_mapping_are_arguments_too():
    assert CARD not in error_text(f"no such card: {CARD}", Arguments(({CARD: 1},), {}))


def test_bytes_that_are_no_text_are_found_as_printed():
    value = b"\xff secret \xfe"
    assert "secret" not in error_text(f"cannot decode {value!r}", Arguments((value,), {}))


def test_a_huge_number_is_read():
    assert error_text("fine", Arguments((10**5000,), {})) == "fine"


def test_an_argument_that_is_part_of_the_mark_is_marked_once():
    arguments = Arguments(("argument",), {})
    once = error_text("an argument", arguments)
    assert once == f"an {REPLACEMENT}"
    assert error_text(once, arguments) == once
    both = Arguments(("argument", "a longer one"), {})
    assert error_text("a longer one, argument", both) == f"{REPLACEMENT}, {REPLACEMENT}"


def test_a_tree_that_is_too_large_to_be_searched_withholds_the_text():
    tree = [[n] for n in range(100_000)]
    arguments = Arguments((tree, CARD), {})
    assert error_text(f"no such card: {CARD}", arguments) == WITHHELD
    sent = stacktrace(traceback_of(fail_with, CARD), arguments)
    assert CARD not in sent.replace("\n", "")
    assert "in fail_with" in sent  # where it happened is still told


def test_a_text_that_is_too_large_to_be_searched_is_withheld():
    assert error_text("x" * 2_000_000) == WITHHELD
    assert stacktrace("x" * 2_000_000) == WITHHELD
    text = " ".join(f"value-{n}" for n in range(40_000))
    assert error_text(text, Arguments(text.split(), {})) == WITHHELD


def test_very_many_parts_and_arguments_do_not_hold_an_event_loop_up():
    """Measured by the processor's time: 15 s when each part had work of its own to spend."""
    text = '  File "x.py", line 1, in f\nValueError: what it was\n' * 20_000
    arguments = Arguments([f"order-{number:06}" for number in range(5_000)], {})
    begun = time.process_time()
    stacktrace(text[:1_000_000], arguments)
    stacktrace(text[:1_000_000])
    error_text("x" * 1_000_000)
    assert time.process_time() - begun < 1.5


def test_a_text_that_uses_every_stand_in_is_withheld():
    text = "".join(map(chr, range(0xE000, 0xF900))) + CARD
    assert error_text(text, Arguments((CARD,), {})) == WITHHELD
    text = text.removesuffix(CARD)
    assert error_text(text) == text


def test_the_names_of_keyword_arguments_are_no_values():
    assert error_text("no such account", Arguments((), {"account": 1})) == "no such account"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05+00:00"),
        (uuid.UUID(int=77), uuid.UUID(int=77).hex),
        ("M\u00fcller-L\u00fcdenscheidt", "M\\u00fcller-L\\u00fcdenscheidt"),
        ("Ann Lee & Co/5", "Ann%20Lee%20%26%20Co%2F5"),
        ("Ann Lee & Co/5", "Ann+Lee+%26+Co%2F5"),
    ],
)
def test_a_value_is_found_as_json_and_others_print_it(value, printed):
    assert printed not in error_text(f"refused: {printed}", Arguments((value,), {}))


@LAW
@given(
    value=st.text(_CHARACTERS, min_size=33, max_size=60),
    kept=st.integers(16, 60),
    around=st.tuples(st.text(_CHARACTERS, max_size=6), st.text(_CHARACTERS, max_size=6)),
)
def test_both_ends_of_a_long_value_are_found_where_it_was_cut_off(value, kept, around):
    before, behind = around
    arguments = Arguments((value,), {})
    beginning, end = value[:kept], value[-kept:]
    assert beginning[:16] not in error_text(f"{before}{beginning}{behind}", arguments)
    assert end[-16:] not in error_text(f"{before}{end}{behind}", arguments)


@pytest.mark.parametrize("kept", [16, 17, 33, 50])
def test_all_that_is_left_of_a_long_value_is_one_mark(kept):
    value = "".join(map(chr, range(0x4E00, 0x4E00 + 60)))
    arguments = Arguments((value,), {})
    assert error_text(f"at {value[:kept]}... ", arguments) == "at [argument]... "
    assert error_text(f"at ...{value[-kept:]} ", arguments) == "at ...[argument] "


def test_the_beginnings_of_a_long_argument_take_no_time():
    arguments = Arguments(("x" * 16 + "y" * MEGABYTE,), {})
    text = ("x" * 16 + "z") * (MEGABYTE // 17)
    begun = time.process_time()
    error_text(text, arguments)
    assert time.process_time() - begun < 1.0


def test_a_value_that_a_library_has_shortened_is_found():
    value = f"{CARD} " + "x" * 100 + f" {CARD}"
    shortened = f"[input_value='{value[:24]}...{value[-24:]}']"  # as pydantic does
    assert CARD not in error_text(shortened, Arguments((value,), {}))


# --- secrets that are no arguments ----------------------------------------------------------------


def test_secrets_are_gone_from_messages_tracebacks_and_unknown_fields():
    secret = "hunter2-Tr0ub4dor"
    text = f"cannot connect to amqp://guest:{secret}@broker// with password={secret}"
    trace = (
        "Traceback (most recent call last):\n"
        '  File "/app/tokens/password=1.py", line 3, in connect\n'
        f"    login(token=token, password='{secret}')\n"
        f"OSError: {text}"
    )
    sent = stacktrace(trace)
    assert secret not in error_text(text) + sent
    assert '  File "/app/tokens/password=1.py", line 3, in connect' in sent
    assert "token=token" in sent
    fields = unknown_fields({"broker": text}, frozenset())
    assert secret not in str(fields)


@pytest.mark.parametrize("position", range(-60, 60, 7))
def test_a_secret_on_the_edge_of_what_is_sent_is_gone(position):
    secret = "Tr0ub4dor" * 5
    text = f"{'x' * (ERROR_LIMIT + position)} password={secret} rest"
    assert "Tr0ub" not in error_text(text)
    text = f"rest password={secret} {'x' * (STACKTRACE_LIMIT + position)}"
    assert "4dor" not in stacktrace(text)


@pytest.mark.parametrize("position", [200, 4096, 5000, 6000])
def test_a_private_key_of_which_the_end_alone_is_near_is_gone(position):
    """One of many lines is longer than what is looked through beside the part that is sent."""
    lines = "\n".join(f"{number:03}{'Tr0ub4dor' * 7}" for number in range(100))
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"
    text = f"rest {key}\n" + "x\n" * ((STACKTRACE_LIMIT + position - len(key)) // 2)
    assert len(text) > STACKTRACE_LIMIT
    assert "Tr0ub" not in stacktrace(text)


# --- as somebody would use an argument ------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "text", "clean"),
    [
        ("alice@example.com\n", "no such user: alice@example.com", "no such user: [argument]"),
        ("Alice@Example.com", "no user alice@example.com here", "no user [argument] here"),
        ("de89 abcd", "bad: DE89 ABCD", "bad: [argument]"),
        ('{"iban": "DE89370400440532013000"}', "DE89370400440532013000?", "[argument]?"),
        ('["a", {"b": ["JOHN-7788"]}]', "who is JOHN-7788", "who is [argument]"),
        ("user:JOHN-7788:eu", "who is JOHN-7788", "who is [argument]"),
        ("to=bob@example.com&x=1", "bob@example.com bounced", "[argument] bounced"),
        ("please process the invoices", "invoices process", "invoices process"),
        ('{"iban": ', "no JSON iban", "no JSON iban"),
    ],
)
def test_an_argument_is_known_also_as_it_is_used(argument, text, clean):
    assert error_text(text, Arguments((argument,), {})) == clean


@pytest.mark.parametrize("argument", ["caf\udce9.txt", "\ud83d", "a" * 40 + "\udce9" + "b" * 40])
def test_half_a_character_in_an_argument_or_a_text_costs_itself(argument):
    """A file's name that is no UTF-8 comes out of `os` like this."""
    for write in (error_text, stacktrace):
        clean = write(f"cannot open {argument}", Arguments((argument,), {}))
        clean.encode()
        assert "cannot open" in clean
        assert len(argument) < 4 or argument[:4] not in clean
        assert write("caf\udce9") == "caf\\udce9"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("customer-4929123456789012345 John Smith",), "no such customer: {0}"),
        (("John Smith <john.smith@example.com>",), "{0} refused"),
        (("invoice_2024_000123456789 f\u00fcr J\u00f6rg Li",), "not found: {0}"),
        (("https://example.com/reset?u=anna.l",), "404 for {0}"),
        (("/srv/uploads/2024/11/customers-all.csv", "/srv/uploads/2024/11/john.smith"), "to {1}"),
        (("/srv/2023/uploads/of-customers.csv", "/home/john/uploads/of-customers.csv"), "to {1}"),
    ],
)
def test_nothing_of_an_argument_is_left_because_of_another_of_its_forms(arguments, text):
    """Or of another argument that begins or ends like it: what is whole goes first."""
    clean = error_text(text.format(*arguments), Arguments(arguments, {}, repr(arguments), "{}"))
    assert clean == text.format(REPLACEMENT, REPLACEMENT)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("Patient 4711-Z9 was told by Dr Hoffmann that the biopsy is positive, and went",), 70),
        (
            ("Elisabeth", "please tell Elisabeth that her account is closed as of today, and why"),
            50,
        ),
        (("letter to john about the illness of his wife and all that it means" * 3, "john"), 90),
    ],
)
def test_nothing_of_an_argument_that_was_cut_off_is_left_because_of_a_shorter_one(arguments, shown):
    """Or of a part of it that names something."""
    longest = max(arguments, key=len)
    assert error_text(f"invalid: {longest[:shown]!r}", Arguments(arguments, {})) == (
        "invalid: '[argument]'"
    )


@pytest.mark.parametrize("name", ["rule.py", "<rule>"])
def test_source_that_was_an_argument_is_no_frame(name):
    source = "iban == 'DE89370400440532013000' and"
    trace = traceback_of(compile, source, name, "eval")
    assert "SyntaxError" in trace
    sent = stacktrace(trace, Arguments((source,), {}))
    assert "DE89370400440532013000" not in sent
    assert "in traceback_of" in sent


def test_very_many_arguments_do_not_hold_an_event_loop_up():
    """Measured by the processor's time: 0.9 s when each was looked for in all its forms."""
    values = [f"order-{n:06}-of-a-customer" for n in range(49_000)]
    text = f"KeyError: '{values[31_000]}' " + "of nobody " * 20
    begun = time.process_time()
    clean = error_text(text, Arguments((values,), {}))
    took = time.process_time() - begun
    assert clean.startswith("KeyError: '[argument]' of nobody")
    assert took < 0.3


#: So many that each is looked up before it is looked for, and which are in no text.
OTHERS = [f"zyxzyx{number:04}" for number in range(_FEW + 1)]


@given(
    values=st.lists(
        st.one_of(st.text(min_size=4, max_size=60), st.from_regex(r"[A-Za-z0-9@:.-]{4,50}")),
        max_size=6,
    ),
    chosen=st.integers(0, 5),
    form=st.sampled_from(
        [str, repr, ascii, json.dumps, lambda text: quote(text, safe=""), str.upper]
    ),
    cut_off=st.integers(0, 60),
)
@example(["MEHMETC\u0130"], 0, json.dumps, 60).via("the lower case of this has an i of ASCII")
@example(["\u212aELVIN-4711"], 0, json.dumps, 60).via("and of this a k")
@example(["\u5f90" * 12 + " 4711 " + "\u5f90" * 12], 0, json.dumps, 24).via("cut off, in JSON")
@LAW
def test_what_is_told_apart_quickly_is_what_is_found_slowly(values, chosen, form, cut_off):
    """A value that is in the text, in any form, or cut off, is always one that is looked for."""
    printable = [value.encode("utf-8", "replace").decode() for value in values]
    if not printable:
        return
    text = f"x {form(printable[chosen % len(printable)])} y"
    if cut_off:  # as libraries do
        text = text[: max(18, cut_off)]
    for value in printable:  # each by itself: together they may be parts of each other
        slow = Values(set(_printed(value))).remove_from(text)
        assert Arguments([value, *OTHERS], {}).remove_from(text) == slow
