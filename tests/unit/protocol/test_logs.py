"""Log entries as a host's parser needs them (spec 2.2)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gcs.protocol.logs import (
    LEVELS,
    MAX_TEXT,
    LogEntry,
    decode_json,
    encode_json,
    encode_text,
    format_duration,
    format_time,
    span_entry,
)
from gcs.protocol.trace import Span, SpanContext

NOON = 1_700_000_000_123_456_789


def test_times_are_rfc_3339_with_nanoseconds() -> None:
    assert format_time(NOON) == "2023-11-14T22:13:20.123456789Z"
    assert format_time(0) == "1970-01-01T00:00:00.000000000Z"


def test_an_entry_is_one_line_of_json() -> None:
    entry = LogEntry(level="info", message="two\nlines", time=NOON, fields={"cid": "x", "n": 1})
    assert encode_json(entry) == (
        b'{"time":"2023-11-14T22:13:20.123456789Z","level":"info","msg":"two\\nlines",'
        b'"cid":"x","n":1}\n'
    )
    assert decode_json(encode_json(entry)) == entry


def test_fields_never_replace_what_the_parser_needs() -> None:
    entry = LogEntry(message="m", fields={"level": "loud", "msg": 5, "time": None})
    document = json.loads(encode_json(entry))
    assert document["level"] == "info"
    assert document["msg"] == "m"
    assert document["fields.level"] == "loud"
    assert document["fields.msg"] == 5


@pytest.mark.parametrize(
    "value",
    [1 << 80, {1, 2}, b"bytes", object(), {5: 6}, {(1, 2): 3}, "half \ud800", ["\udcff"], 1j],
)
def test_fields_that_are_no_json_become_text(value: Any) -> None:
    entry = decode_json(encode_json(LogEntry(message="m", fields={"odd": value, "good": "g"})))
    assert entry.fields["good"] == "g"
    assert "odd" in entry.fields


def test_a_field_that_refers_to_itself() -> None:
    value: list[Any] = []
    value.append(value)
    assert decode_json(encode_json(LogEntry(fields={"odd": value}))).fields["odd"] == "[[...]]"


def test_long_texts_are_cut() -> None:
    line = encode_json(LogEntry(message="m" * 10_000_000, fields={"f": "f" * 10_000_000}))
    assert len(line) < 3 * MAX_TEXT
    assert "characters cut" in decode_json(line).message


def test_text_form() -> None:
    entry = LogEntry(level="error", message="it failed", time=NOON, fields={"a": 'q"', "b": 5})
    assert encode_text(entry) == (
        b'time="2023-11-14T22:13:20.123456789Z" level=error msg="it failed" a="q\\"" b=5\n'
    )
    assert encode_text(LogEntry(message="a\nb", fields={"e": "", "s": "\ud800"})).count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"Traceback (most recent call last):",
        b"",
        b"[]",
        b"5",
        b'{"level":"loud"}',
        b'{"level":5}',
        b'{"msg":5}',
        b'{"time":5}',
        b'{"time":"yesterday"}',
        b'{"msg":"a"}{"msg":"b"}',
    ],
)
def test_what_ends_a_hosts_parsing_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_json(line)


def test_what_other_agents_write_is_understood() -> None:
    """The reference trims zeros, leaves out what it likes, and says warn."""
    entry = decode_json(b'{"level":"warn","msg":"m","time":"2023-11-14T22:13:20.5Z","x":[1]}\n')
    assert entry == LogEntry(
        level="warning", message="m", time=1_700_000_000_500_000_000, fields={"x": [1]}
    )
    assert decode_json(b"{}") == LogEntry()
    assert decode_json(b'{"time":"2023-11-14T23:13:20+01:00"}').time == 1_700_000_000_000_000_000


@given(
    level=st.sampled_from(LEVELS),
    message=st.text(),
    time=st.integers(0, 1 << 61),
    fields=st.dictionaries(st.text(max_size=10), st.text() | st.integers() | st.none()),
)
def test_any_entry_is_one_that_can_be_parsed(
    level: str, message: str, time: int, fields: dict[str, Any]
) -> None:
    entry = LogEntry(level=level, message=message, time=time, fields=fields)
    line = encode_json(entry)
    assert line.count(b"\n") == 1
    parsed = decode_json(line)
    assert parsed.level == level
    assert parsed.time == time
    assert encode_text(entry).count(b"\n") == 1


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (999, "999ns"),
        (1000, "1µs"),
        (1500, "1.5µs"),
        (1_000_001, "1.000001ms"),
        (12_300_000, "12.3ms"),
        (999_999_999, "999.999999ms"),
        (1_000_000_000, "1s"),
        (59_500_000_000, "59.5s"),
        (60_000_000_000, "1m0s"),
        (3_661_000_000_001, "1h1m1.000000001s"),
        (360_000_000_000_000, "100h0m0s"),
    ],
)
def test_durations_are_written_as_go_does(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


def test_the_entry_of_a_span() -> None:
    parent = SpanContext("1" * 32, "2" * 16, "vendor=1")
    span = Span("scsi::Mount", {"lun": 3, "absent": None}, kind="server", parent=parent)
    span.start, span.duration = NOON, 1_500_000
    entry = span_entry(span)
    assert (entry.level, entry.message, entry.time) == ("info", "Span", NOON)
    assert len(entry.fields.pop("spanID")) == 16
    assert entry.fields == {
        "lun": 3,
        "name": "scsi::Mount",
        "traceID": "1" * 32,
        "parentSpanID": "2" * 16,
        "startTime": "2023-11-14T22:13:20.123456789Z",
        "endTime": "2023-11-14T22:13:20.124956789Z",
        "duration": "1.5ms",
        "spanKind": "server",
        "traceState": "vendor=1",
    }


def test_the_entry_of_a_span_that_failed() -> None:
    span = Span("x", {})
    span.fail(ValueError("no"))
    entry = span_entry(span)
    assert entry.level == "error"
    assert entry.fields["error"] == "ValueError: no"
    assert entry.fields["errorCode"] == "0x80004005"
    assert not {"parentSpanID", "spanKind", "traceState"} & set(entry.fields)


def test_an_error_among_the_attributes_is_not_replaced() -> None:
    span = Span("x", {"error": "mine"})
    span.fail(ValueError("no"))
    assert span_entry(span).fields["error"] == "mine"
