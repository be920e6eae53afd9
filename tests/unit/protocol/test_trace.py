"""Spans: whose child they are, what they tell, and that they never get in the way."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from gcs.protocol import trace
from gcs.protocol.errors import SystemNotFoundError
from gcs.protocol.trace import SpanContext, current, remote_parent, set_exporter, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gcs.protocol.trace import Span

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def spans() -> Iterator[list[Span]]:
    """Spans that have ended."""
    ended: list[Span] = []
    before = trace._export
    set_exporter(ended.append)
    yield ended
    set_exporter(before)


def test_a_span_is_the_child_of_the_one_around_it(spans: list[Span]) -> None:
    assert current() is None
    with span("outer") as outer:
        with span("inner", lun=1) as inner:
            assert current() is inner.context
        assert current() is outer.context
    assert current() is None
    assert spans == [inner, outer]
    assert inner.parent_id == outer.context.span_id
    assert inner.context.trace_id == outer.context.trace_id
    assert outer.parent_id == ""
    assert inner.attributes == {"lun": 1}
    assert 0 <= inner.duration <= outer.duration
    assert outer.start <= inner.start


def test_ids_are_those_of_w3c_and_differ() -> None:
    contexts = [span("x").context for _ in range(500)]
    assert len({context.span_id for context in contexts}) == 500
    assert len({context.trace_id for context in contexts}) == 500
    assert {(len(context.trace_id), len(context.span_id)) for context in contexts} == {(32, 16)}


async def test_tasks_and_threads_belong_to_the_span_they_are_started_in() -> None:
    async def task() -> SpanContext | None:
        await asyncio.sleep(0)
        return current()

    with span("outer") as outer:
        started = asyncio.create_task(task())
        in_thread = await asyncio.to_thread(current)
    assert current() is None
    assert await started is outer.context
    assert in_thread is outer.context


def test_an_error_that_passes_is_noted_with_its_hresult(spans: list[Span]) -> None:
    with pytest.raises(SystemNotFoundError), span("x"):
        raise SystemNotFoundError("container c does not exist")
    with pytest.raises(OSError, match="gone"), span("y"):
        raise OSError(2, "gone", "/x")
    assert [(entry.error, entry.error_code) for entry in spans] == [
        ("container c does not exist", "0xc037010e"),
        ("gone: '/x'", "0x80004005"),
    ]


def test_without_an_exporter_nothing_happens() -> None:
    set_exporter(None)
    with span("x") as alone:
        pass
    assert alone.error == ""


def test_spans_of_many_threads(spans: list[Span]) -> None:
    def work() -> None:
        for _ in range(200):
            with span("x"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans) == 800


def test_a_host_s_span_is_continued(spans: list[Span]) -> None:
    parent = remote_parent({"traceparent": PARENT, "tracestate": "a=1, b=2,", "baggage": "x=y"})
    assert parent is not None
    with trace.Span("request", {}, parent=parent), span("inner"):
        pass
    inner, request = spans
    assert (request.context.trace_id, request.parent_id) == (TRACE_ID, SPAN_ID)
    assert inner.context.state == "a=1,b=2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-1",
        f"00-{TRACE_ID}-{SPAN_ID}-01-x",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"0-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}x-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID[:-1]}é-01",
    ],
)
def test_what_is_no_traceparent_starts_a_trace_of_its_own(text: str) -> None:
    assert remote_parent({"traceparent": text}) is None


def test_later_versions_may_say_more() -> None:
    parent = remote_parent({"traceparent": f"cc-{TRACE_ID}-{SPAN_ID}-00-more"})
    assert parent is not None
    assert parent.span_id == SPAN_ID


@pytest.mark.parametrize("state", ["novalue", "=x", "a=", ",".join(f"a{n}=1" for n in range(33))])
def test_a_malformed_tracestate_spoils_nothing(state: str) -> None:
    parent = remote_parent({"traceparent": PARENT, "tracestate": state})
    assert parent is not None
    assert (parent.trace_id, parent.state) == (TRACE_ID, "")


@given(carrier=st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), st.text()))
def test_no_carrier_fails(carrier: dict[str, str]) -> None:
    remote_parent(carrier)
