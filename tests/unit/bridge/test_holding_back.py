"""After a loss: what is kept, for whom it is held back, and what lets it go (spec 1.10)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gcs.bridge import exit_codes as exit_codes_module
from gcs.bridge.exit_codes import ExitCodes
from gcs.bridge.message import Message, notification_message
from gcs.bridge.outbox import Outbox
from gcs.protocol.frame import MessageType
from gcs.protocol.hresult import HResult
from gcs.protocol.message import UVM_ID
from gcs.protocol.responses import Notification
from tests.unit.bridge.bridge_support import Stage, stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.fakehost import HostConnection

NEGOTIATED, WAITED = 0x20100B01, 0x20100601
FOR_EVER = 1e6


@pytest.fixture
async def on() -> AsyncIterator[Stage]:
    """Only a request lets anything go here: the timer would, in eleven days."""
    async with stage(hold_seconds=FOR_EVER) as made:
        yield made


def wait_body(pid: int, container_id: str = "c", timeout: int = 0xFFFF_FFFF) -> dict[str, Any]:
    return {"ContainerId": container_id, "ProcessId": pid, "TimeoutInMs": timeout}


async def lose_a_wait(on: Stage, pid: int, sequence: int, container_id: str = "c") -> None:
    """Connect, send a wait, and lose the connection."""
    connection = await on.negotiated()
    body = wait_body(pid, container_id)
    await connection.send(MessageType.WAIT_FOR_PROCESS, body, sequence=sequence)
    await connection.rpc(MessageType.START, {})
    await on.disconnect(connection)


async def end(on: Stage, pid: int, exit_code: int) -> None:
    """Let a process exit, and its waits come to their end."""
    answered = on.runtime.log.count("answered")
    on.runtime.process(pid).set_result(exit_code)
    async with asyncio.timeout(30):
        while on.runtime.log.count("answered") == answered:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0)


async def arrived(connection: HostConnection) -> list[int]:
    """Types of what the host has got, after the answer to one more request."""
    await connection.rpc(MessageType.START, {})
    return connection.order[:-1]


async def test_a_new_host_is_told_nothing_about_a_container_before_it_names_it(on: Stage) -> None:
    await lose_a_wait(on, 7, 42)
    await end(on, 7, 3)
    on.bridge.publish(Notification(container_id="c"))
    second = await on.negotiated()
    assert await arrived(second) == [NEGOTIATED]
    await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(8, "other", 50))
    assert second.notifications.empty()
    answer = second.expect(42)
    probe = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7, "c", 50), sequence=99)
    assert (await answer).body["ExitCode"] == 3
    assert probe.body["ExitCode"] == 3
    assert second.notifications.qsize() == 1
    # What was held, in its order, and then the answer to the request that let it go.
    assert second.order[-3:] == [WAITED, MessageType.NOTIFICATION, WAITED]


async def test_a_process_that_still_runs_is_answered_by_the_old_wait(on: Stage) -> None:
    await lose_a_wait(on, 7, 42)
    second = await on.negotiated()
    answer = second.expect(42)
    probe = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7, "c", 50), sequence=99)
    assert probe.result == HResult.TIMEOUT
    on.runtime.process(7).set_result(3)
    assert (await answer).body["ExitCode"] == 3


async def test_an_exit_right_after_the_reconnection_is_held_back_as_well(on: Stage) -> None:
    await lose_a_wait(on, 7, 42)
    second = await on.negotiated()
    await end(on, 7, 3)
    on.bridge.publish(Notification(container_id="c"))
    assert await arrived(second) == [NEGOTIATED]
    answer = second.expect(42)
    await second.rpc(MessageType.GET_PROPERTIES, {"ContainerId": "c"})
    assert (await answer).body["ExitCode"] == 3
    assert second.order[-3:-1] == [WAITED, MessageType.NOTIFICATION]


async def test_a_request_before_the_negotiation_lets_nothing_go(on: Stage) -> None:
    on.bridge.publish(Notification(container_id="c"))
    second = await on.connect()
    await second.rpc(MessageType.GET_PROPERTIES, {"ContainerId": "c"})
    await second.negotiate()
    await second.rpc(MessageType.START, {})
    assert second.notifications.empty()


async def test_a_container_of_this_connection_is_reported_at_once(on: Stage) -> None:
    connection = await on.negotiated()
    await connection.rpc(MessageType.START, {"ContainerId": "c"})
    on.bridge.publish(Notification(container_id="c"))
    assert (await connection.notifications.get())["ContainerId"] == "c"


async def test_a_process_of_the_vm_waits_for_a_request_that_names_it(on: Stage) -> None:
    await lose_a_wait(on, 7, 42, UVM_ID)
    await lose_a_wait(on, 8, 43, UVM_ID)
    on.runtime.process(7).set_result(3)
    on.runtime.process(8).set_result(4)
    second = await on.negotiated()
    await second.rpc(MessageType.MODIFY_SETTINGS, {"ContainerId": UVM_ID})
    assert WAITED not in second.order
    seven, eight = second.expect(42), second.expect(43)
    await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7, UVM_ID, 50), sequence=99)
    assert (await seven).body["ExitCode"] == 3
    assert not eight.done()
    await second.rpc(MessageType.SIGNAL_PROCESS, {"containerid": UVM_ID, "processid": 8})
    assert (await eight).body["ExitCode"] == 4


async def test_a_host_that_names_nothing_gets_everything_in_the_end() -> None:
    """As one that has taken its VM back: it knows what it has asked for."""
    async with stage(hold_seconds=0.05) as on:
        await lose_a_wait(on, 7, 42)
        await lose_a_wait(on, 8, 43, UVM_ID)
        on.runtime.process(7).set_result(3)
        on.runtime.process(8).set_result(4)
        on.bridge.publish(Notification(container_id="c"))
        second = await on.connect()
        seven, eight = second.expect(42), second.expect(43)
        await second.negotiate()
        assert ((await seven).body["ExitCode"], (await eight).body["ExitCode"]) == (3, 4)
        assert (await second.notifications.get())["ContainerId"] == "c"
        # Nothing is held back any more.
        on.bridge.publish(Notification(container_id="d"))
        assert (await second.notifications.get())["ContainerId"] == "d"


async def test_nothing_is_sent_twice(on: Stage) -> None:
    await lose_a_wait(on, 7, 42)
    on.runtime.process(7).set_result(3)
    on.bridge.publish(Notification(container_id="c"))
    for _ in range(3):  # hosts that come and go without naming it
        await on.disconnect(await on.negotiated())
    last = await on.negotiated()
    answer = last.expect(42)
    await last.rpc(MessageType.START, {"ContainerId": "c"})
    assert (await answer).body["ExitCode"] == 3
    await on.disconnect(last)
    after = await on.negotiated()
    await after.rpc(MessageType.START, {"ContainerId": "c"})
    assert after.order[:-1] == [NEGOTIATED]


async def test_an_answer_that_may_be_unread_is_given_to_who_asks(on: Stage) -> None:
    """The host paused for good before it read the answer, and the process is forgotten."""
    first = await on.negotiated()
    on.runtime.process(7).set_result(3)
    await first.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7))
    on.runtime.forgotten.add(7)
    gone = await first.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7))
    assert gone.result == HResult.NOT_FOUND  # as long as the connection lives
    await on.disconnect(first)
    second = await on.negotiated()
    stranger = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7, "other", 50))
    assert stranger.result == HResult.NOT_FOUND
    probe = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7, "c", 50))
    assert (probe.result, probe.body["ExitCode"]) == (0, 3)
    again = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7, "c", 50))
    assert again.result == HResult.NOT_FOUND


async def test_a_probe_finds_the_exit_code_of_an_answer_that_was_held_back(on: Stage) -> None:
    await lose_a_wait(on, 7, 42)
    on.runtime.process(7).set_result(3)
    second = await on.negotiated()
    on.runtime.forgotten.add(7)
    answer = second.expect(42)
    probe = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(7, "c", 50), sequence=99)
    assert (await answer).body["ExitCode"] == 3
    assert (probe.result, probe.body["ExitCode"]) == (0, 3)


# The parts


def test_exit_codes_that_were_read_long_ago_are_not_in_doubt() -> None:
    codes = ExitCodes(doubt_seconds=-1.0)
    codes.sent("c", 1, 5)
    codes.lost()
    assert codes.recall("c", 1) is None


def test_the_code_of_a_new_process_with_the_same_pid_counts() -> None:
    codes = ExitCodes()
    codes.sent("c", 1, 5)
    codes.lost()
    codes.sent("c", 1, 6)
    assert codes.recall("c", 1) is None
    codes.lost()
    assert codes.recall("c", 1) == 6


def test_only_so_many_exit_codes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_codes_module, "MAX_CODES", 3)
    codes = ExitCodes()
    for pid in range(5):
        codes.sent("c", pid, pid)
    codes.lost()
    assert [codes.recall("c", pid) for pid in range(5)] == [None, None, 2, 3, 4]
    for pid in range(5):
        codes.unsent("c", pid, pid)
    assert [codes.recall("c", pid) for pid in range(5)] == [None, None, 2, 3, 4]


async def test_what_a_connection_did_not_take_comes_before_what_waits() -> None:
    outbox = Outbox(FOR_EVER)
    sent: list[Message] = []
    kept = [notification_message(Notification(container_id="c", type=str(n))) for n in range(3)]
    outbox.put(kept[2])
    other = Message(MessageType.START, 1, b"{}", subject="c")
    outbox.close([kept[0], other, kept[1]])
    outbox.open(sent.append)
    outbox.name("c")
    assert sent == kept
    outbox.close()


async def test_a_timer_of_a_lost_connection_does_nothing() -> None:
    outbox = Outbox(0.0)
    sent: list[Message] = []
    outbox.open(sent.append)
    outbox.close()
    outbox.put(notification_message(Notification(container_id="c")))
    await asyncio.sleep(0.01)  # the timer, were it still there, would go off first
    assert not sent
