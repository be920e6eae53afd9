"""The agent's log stream, read as a real host reads it (spec 2.2, 10.9)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies

from uvm.logs import LogDecoder, decode_all


def test_an_entry() -> None:
    (entry,) = decode_all(
        [b'{"time":"2026-01-02T03:04:05.678901234Z","level":"warn","msg":"hi","pid":3.0,"f":1.5}']
    )
    assert (entry.level, entry.message) == ("warning", "hi")
    assert entry.fields == {"vm.time": "2026-01-02T03:04:05.678901234Z", "pid": 3, "f": 1.5}
    assert isinstance(entry.fields["pid"], int)


@pytest.mark.parametrize(
    ("written", "read"),
    [("trace", "trace"), ("warning", "warning"), ("fatal", "error"), ("panic", "error")],
)
def test_levels(written: str, read: str) -> None:
    (entry,) = decode_all([json.dumps({"level": written, "msg": ""}).encode()])
    assert entry.level == read


def test_whitespace_between_entries_is_optional() -> None:
    stream = b'{"msg":"a"}{"msg":"b"} \n\t{"msg":"c"}\r\n'
    assert [entry.message for entry in decode_all([stream])] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "bad",
    [
        b"Traceback (most recent call last):\n  ...",
        b'{"level":"loud","msg":"x"}',
        b'{"level":7}',
        b'{"msg":["x"]}',
        b'{"time":"yesterday"}',
        b'{"msg":nonsense}',
        b"[1]",
        b'{"msg":"cut off',
    ],
)
def test_the_rest_of_a_broken_stream_is_one_entry(bad: bytes) -> None:
    good = b'{"level":"info","msg":"fine"}\n'
    first, last = decode_all([good, bad, b' {"msg":"too late"}'])
    assert first.message == "fine"
    assert (last.level, last.message) == ("error", "gcs terminated")
    assert last.fields["stderr"] == (bad + b' {"msg":"too late"}').decode()


def test_a_broken_stream_of_any_length_is_held_in_bounds() -> None:
    decoder = LogDecoder()
    for _ in range(40):
        assert decoder.feed(b"x" * 100_000) == []
    assert decoder.failed
    (entry,) = decoder.finish()
    assert len(entry.fields["stderr"]) == 1 << 20


@given(
    strategies.lists(
        strategies.dictionaries(strategies.text(), strategies.text() | strategies.integers(0, 99)),
        max_size=5,
    ),
    strategies.lists(strategies.integers(1, 40)),
)
def test_entries_come_out_however_the_stream_is_cut(
    documents: list[dict[str, str | int]], cuts: list[int]
) -> None:
    reserved = {"level", "msg", "time"}
    documents = [
        {key: value for key, value in document.items() if key not in reserved}
        for document in documents
    ]
    stream = b"".join(json.dumps(document).encode() for document in documents)
    pieces = []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    assert [entry.fields for entry in decode_all([*pieces, stream])] == documents


def test_an_entry_as_a_line_for_people_and_for_programs() -> None:
    (entry,) = decode_all([b'{"level":"info","msg":"it runs","cid":"abc","text":"two words"}'])
    assert entry.to_text().endswith('info    it runs cid=abc text="two words"')
    assert json.loads(entry.to_json())["cid"] == "abc"
    assert entry.to_json().endswith(b"\n")
