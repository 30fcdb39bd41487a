"""For any answer, the verdict is that of the table, and no text shows a key."""

from __future__ import annotations

import base64
import json
import pickle
from email.utils import formatdate
from itertools import pairwise
from time import time
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stable_async import Audio, Image, InvalidResponseError, Model3D, StabilityError
from stable_async.api.answers import Answer, read_error, read_generation_id, read_retry_after
from stable_async.api.envelope import Envelope, read_envelope
from stable_async.api.media_reader import MediaReader
from stable_async.api.media_types import sniff
from stable_async.api.texts import clean
from stable_async.api.v1 import V1TextToImage
from stable_async.api.verdict import (
    Asked,
    judge,
    judge_broken_connection,
    judge_failed,
    judge_unreadable,
)
from tests.samples import mp3, sample_image, wav
from tests.verdicts_page import PAGE, page

KEY = "sk-Tq8vW2xZ5bN7mK4jH6gF3dS9aP1oI0uY"
FILES = [
    sample_image(),
    sample_image(kind="jpeg"),
    sample_image(kind="webp"),
    wav(1),
    mp3(0.1),
    b"glTF" * 9,
]

# Statuses with which something on the way says that it has handed the request on, or does not say
# that it has not: written down once more, so that the table cannot change by accident.
MAYBE = {460, 499, *range(501, 600), *range(100, 200), *range(600, 1000)} - {
    *(511, 521, 523, 525, 526, 530)
}


def forms_of(key: str) -> list[str]:
    """Return texts that hold the key in one form or another."""
    bearer = f"Bearer {key}"
    return [
        key,
        bearer,
        quote(key, safe=""),
        "".join(f"%{ord(one):02x}" for one in key),
        "".join(f"%{ord(one):02X}" for one in bearer),
        "".join(f"%25{ord(one):02x}" for one in key),
        "".join(f"&#{ord(one)};" for one in key),
        "".join(f"\\u{ord(one):04x}" for one in key),
        key.upper(),
        key.encode().hex(),
        base64.b64encode(key.encode()).decode(),
        base64.b64encode(bearer.encode()).decode(),
        base64.urlsafe_b64encode(f"ab{key}c".encode()).decode(),
        base64.b64encode(f"user:{key}".encode()).decode(),
        f"{key[:7]}{'*' * 20}{key[-4:]}",
        f"Incorrect API key provided: {key}. You can find your API key",
    ]


def pieces_of(key: str) -> list[str]:
    """Return what must not be seen of any form of the key: the letters of ten of its characters."""
    found = []
    for start in range(3, len(key) - 10):
        piece = key[start : start + 10]
        found += [piece, piece.encode().hex()]
        found += [
            "".join(write(ord(one)) for one in piece)
            for write in ("%{:02x}".format, "%25{:02x}".format, "&#{};".format, "\\u{:04x}".format)
        ]
    for lead in range(3):
        encoded = base64.b64encode(bytes(lead) + key.encode()).decode()
        found += [encoded[start : start + 14] for start in range(4, len(encoded) - 18)]
    return found


SECRETS = [piece.lower() for piece in pieces_of(KEY)]

texts = st.one_of(
    st.text(max_size=60),
    st.sampled_from(forms_of(KEY)),
    st.sampled_from(
        ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\ud83d", "\x9b31m", "\u202eevil", "\r\n"]
    ),
)
joined = st.lists(texts, max_size=4).map(" ".join)
envelopes = st.builds(
    lambda name, messages, v1: json.dumps(
        {"id": "a1", "name": name, **({"message": messages} if v1 else {"errors": [messages]})}
    ).encode(),
    st.sampled_from(
        [
            "bad_request",
            "content_moderation",
            "insufficient_balance",
            "internal_error",
            "some_error",
        ]
    )
    | texts,
    joined,
    st.booleans(),
)
bodies = st.one_of(
    st.binary(max_size=200),
    joined.map(lambda text: text.encode("utf-8", "surrogatepass")),
    joined.map(lambda text: f"<html><title>{text}</title>".encode("utf-8", "surrogatepass")),
    st.tuples(st.sampled_from(FILES), st.binary(max_size=20)).map(b"".join),
    st.sampled_from(FILES).map(lambda file: file[:9]),
    st.tuples(st.sampled_from(["image", "result", "x"]), st.sampled_from(FILES)).map(
        lambda pair: json.dumps({pair[0]: base64.b64encode(pair[1]).decode()}).encode()
    ),
    envelopes,
)
headers = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "x-request-id", "Retry-After", "Date", "seed", "finish-reason", "Location"]
    ),
    st.one_of(
        texts, st.sampled_from(["image/png", "application/json", "1e400", "-1", "0", "9" * 50])
    ),
)
askings = st.sampled_from(["submit", "look", "read"])


def assert_harmless(text: str) -> None:
    """No control character, no half of a character, no key."""
    assert all(one.isprintable() for one in text), text
    text.encode()
    lowered = text.lower()
    for secret in SECRETS:
        assert secret not in lowered, (secret, text)


@given(
    st.integers(100, 999).filter(lambda status: not 200 <= status < 300), headers, bodies, askings
)
@example(403, {}, b"<html>", "submit")
@example(403, {"Location": "http://[", "Retry-After": "\x00"}, b"\x00" * 50, "submit")
def test_every_error_is_that_of_the_table(
    status: int, fields: dict[str, str], body: bytes, asked: Asked
) -> None:
    error = read_error(Answer(status, fields, body, asked, KEY), address="http://x")
    envelope = read_envelope(body)
    assert error.verdict == judge(status, envelope, asked)
    assert error.from_api is (envelope is not None)
    for text in (str(error), error.name, *error.errors, error.request_id or ""):
        assert_harmless(text)
    assert error.retry_after is None or 1 <= error.retry_after <= 3600
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    if asked == "submit" and envelope is None:
        assert error.maybe_billed is (status in MAYBE)
        assert error.verdict.job in {"again", "stop", "pause", "doubt"}
    if asked == "submit":
        # What may have been billed is never sent again by itself, and nothing else is in doubt.
        assert error.maybe_billed is (error.verdict.job == "doubt")
        assert not (error.verdict.retry and error.maybe_billed)
    if asked == "look" and envelope is None:
        assert (error.verdict.billed, error.verdict.job) == ("yes", "look")
    if asked == "read":
        assert not error.maybe_billed
    assert error.verdict.retry is (asked != "look" and status in {429, 500}) or (
        status == 429 and envelope is not None
    )


@pytest.mark.parametrize(
    ("name", "statuses", "job", "billed"),
    [
        ("brand_new", [499, 407], "final", "no"),
        ("brand_new", [500, 501, 503, 599], "again", "no"),
        ("brand_new", [504, 600, 199], "doubt", "maybe"),
        ("timeout", [400, 500, 600], "again", "no"),
        ("timeout", [501, 504, 599], "doubt", "maybe"),
        (None, [300, 399], "stop", "no"),
        (None, [400, 498], "pause", "no"),
        (None, [299, 501, 599, 600], "doubt", "maybe"),
    ],
)
def test_every_range_of_statuses_ends_where_it_should(
    name: str | None, statuses: list[int], job: str, billed: str
) -> None:
    envelope = None if name is None else Envelope("a1", name, ())
    for status in statuses:
        verdict = judge(status, envelope, "submit")
        assert (verdict.job, verdict.billed) == (job, billed), status


def test_a_success_without_a_result_is_in_doubt_unless_the_api_ends_a_generation() -> None:
    envelope = Envelope("a1", "brand_new", ())
    for asked in ("submit", "look", "read"):
        assert not judge_unreadable(None, asked).from_api
    submitted, looked = judge_unreadable(envelope, "submit"), judge_unreadable(envelope, "look")
    assert (submitted.from_api, submitted.job, submitted.concerns) == (True, "doubt", "service")
    assert (looked.from_api, looked.job, looked.concerns) == (True, "final", "request")
    assert (judge_unreadable(envelope, "read").job) == "again"


def test_the_api_ends_a_generation_by_saying_that_it_failed() -> None:
    verdicts = [judge_failed(asked) for asked in ("submit", "look", "read")]
    assert [(one.job, one.billed) for one in verdicts] == [
        ("doubt", "maybe"), ("final", "maybe"), ("again", "no"),
    ]  # fmt: skip
    assert all(one.from_api and one.concerns == "service" for one in verdicts)


def test_no_answer_is_never_the_word_of_the_api() -> None:
    for sent, proxy_status, job in (
        (True, None, "doubt"),
        (False, 407, "stop"),
        (False, 403, "pause"),
        (False, None, "pause"),
    ):
        verdict = judge_broken_connection(sent=sent, asked="submit", proxy_status=proxy_status)
        assert (verdict.from_api, verdict.concerns) == (False, "network")
        assert (verdict.job, verdict.billed) == (job, "maybe" if sent else "no")
        assert (verdict.retry, verdict.penalty) == (False, False)


def test_what_is_free_is_asked_again_where_a_submission_is_in_doubt() -> None:
    for status, job in ((502, "again"), (401, "stop"), (403, "pause")):
        assert judge(status, None, "read").job == job
    assert judge_broken_connection(sent=True, asked="read").job == "again"


@given(
    st.sampled_from([Image, Audio, Model3D]),
    st.integers(200, 299),
    headers,
    bodies,
    st.lists(st.integers(0, 400), max_size=4),
    askings,
)
def test_nothing_is_a_result_without_the_first_bytes_of_one(
    kind: type[Image | Audio | Model3D],
    status: int,
    fields: dict[str, str],
    body: bytes,
    cuts: list[int],
    asked: Asked,
) -> None:
    reader = MediaReader(kind, Answer(status, fields, b"", asked, KEY))
    data = b""
    failed: InvalidResponseError | None = None
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    try:
        for start, end in pairwise(edges):
            data += reader.feed(body[start:end])
        reader.finish()
    except InvalidResponseError as caught:
        failed = caught
    if failed is not None:
        assert_harmless(str(failed))
        assert failed.maybe_billed is (asked != "read")
        return
    result = reader.result(data, None)
    family = {Image: "image/", Audio: "audio/", Model3D: "model/"}[kind]
    assert result.content_type == sniff(data)
    assert result.content_type.startswith(family)
    assert_harmless(f"{result.finish_reason}{result.request_id}")
    assert (data in body) or base64.b64encode(data).rstrip(b"=") in body


@given(headers, bodies)
def test_other_readers_raise_nothing_else(fields: dict[str, str], body: bytes) -> None:
    answer = Answer(200, fields, body, "submit", KEY)
    v1 = V1TextToImage(engine_id="x", text_prompts=[{"text": "x"}])
    for read in (read_generation_id, v1.read):
        try:
            result = read(answer)
        except StabilityError as error:
            result = str(error)
        assert result
        if isinstance(result, str):
            assert_harmless(result)


@given(st.text(max_size=3000), st.integers(1, 300))
def test_a_cleaned_text_is_short_and_on_one_line(text: str, limit: int) -> None:
    cleaned = clean(text, limit=limit)
    assert len(cleaned) <= limit
    assert_harmless(cleaned)
    assert clean(cleaned, limit=limit) == cleaned


@pytest.mark.parametrize("form", forms_of(KEY))
@pytest.mark.parametrize("around", ["{}", "x={}&y", '"{}"', "<{}>"])
def test_the_key_is_taken_out_in_every_form(form: str, around: str) -> None:
    assert_harmless(clean(around.format(form), key=KEY))
    assert "[key]" in clean(around.format(form), key=KEY)


def test_a_key_of_another_make_is_taken_out_as_well() -> None:
    for key in ("0123456789abcdef0123456789abcdef", "a.b-c_d/e+f=g"):
        for form in (key, quote(key, safe=""), base64.b64encode(f"x{key}".encode()).decode()):
            assert "[key]" in clean(f"before {form} after", key=key), form


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("60", "", 60),
        ("1.5", "", 1.5),
        ("59.", "", 59),
        ("0", "", 1),
        ("-30", "", 1),
        ("0.01", "", 1),
        ("1000000000000", "", 3600),
        ("9" * 29, "", 3600),
        ("Wed, 25 Nov 2026 20:00:30 GMT", "Wed, 25 Nov 2026 20:00:00 GMT", 30),
        ("Wed, 25 Nov 2026 19:00:00 GMT", "Wed, 25 Nov 2026 20:00:00 GMT", 1),
        ("Wed, 25 Nov 2999 19:00:00 GMT", "Wed, 25 Nov 2026 20:00:00 GMT", 3600),
        ("Wed, 25 Nov 2026 20:00:30 GMT", "today", None),
        ("Wed, 25 Nov 1999 20:00:30 GMT", "", 1),
        ("nan", "", None),
        ("inf", "", None),
        ("soon", "", None),
        ("", "", None),
        ("9" * 400, "", None),
    ],
)
def test_retry_after_is_at_least_a_second_and_at_most_an_hour(
    text: str, date: str, seconds: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_retry_after({"Retry-After": text, "Date": date}) == seconds
    assert ("asked for a wait" in caplog.text) is (seconds == 3600)


def test_a_date_without_the_servers_own_is_taken_against_this_machines_clock() -> None:
    """A server may have no clock (RFC 9110, section 6.6.1)."""
    seconds = read_retry_after({"Retry-After": formatdate(time() + 30, usegmt=True)})
    assert seconds is not None
    assert 20 < seconds <= 30


def test_the_page_of_verdicts_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.verdicts_page`"


@pytest.mark.parametrize(
    "between", ["\n", "\r\n ", "\0", "\u200b", "\u00ad", "\u00a0", "\x1b[0m", " "]
)
@pytest.mark.parametrize("every", [1, 16, 20])
@pytest.mark.parametrize("form", ["plain", "hex", "base64"])
def test_a_key_that_is_broken_in_pieces_is_taken_out(between: str, every: int, form: str) -> None:
    key = "sk-0a1b2c3d4e5f6g7h8i9j"
    spelt = {
        "plain": key,
        "hex": key.encode().hex(),
        "base64": base64.b64encode(key.encode()).decode(),
    }[form]
    broken = between.join(spelt[start : start + every] for start in range(0, len(spelt), every))
    left = clean(f"the key {broken} is wrong", key=key).removeprefix("the key [key]")
    # The last letter of base64 belongs to what follows as well.
    assert len(left.removesuffix(" is wrong").strip(" =")) <= 1
