"""Records of the kernel's log: their form, fragments, gaps."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.kernel_log import _BATCH, KernelLog, KernelRecord, writes_to_kernel_log

if TYPE_CHECKING:
    from pathlib import Path


def test_a_record() -> None:
    record = KernelRecord(
        b"12,345,6789,-,caller=T1;text with; marks \\x09 and \\xc3\\xa4\n"
        b" SUBSYSTEM=pci\n DEVICE=+pci:0000:00:1f.2\n"
    )
    assert (record.priority, record.facility) == (4, 1)
    assert (record.sequence, record.microseconds, record.flags) == (345, 6789, "-")
    assert record.message == "text with; marks \t and ä"
    assert record.about == {"SUBSYSTEM": "pci", "DEVICE": "+pci:0000:00:1f.2"}
    assert not record.continues


@pytest.mark.parametrize("text", ["a\\x", "a\\xg0", "\\x4", "a\\xZZ\\x41"])
def test_an_escape_that_is_none_stays(text: str) -> None:
    message = KernelRecord(f"4,1,2,-;{text}".encode()).message
    assert message == text.replace("\\x41", "A")


@pytest.mark.parametrize(
    "record", [b"", b"4,1,2,-", b"4,1,2;text", b"four,1,2,-;text", b"4,,2,-;text", b"\xff;\xff"]
)
def test_no_record(record: bytes) -> None:
    with pytest.raises(ValueError, match=r"record|invalid literal"):
        KernelRecord(record)


async def forwarded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *records: bytes, priority: int = 4
) -> list[dict[str, Any] | str]:
    """What comes of records: the fields of what was forwarded, and other messages."""
    device = tmp_path / "kmsg"
    os.mkfifo(device)
    log = KernelLog(priority, str(device))
    loop = asyncio.get_running_loop()
    caplog.set_level(logging.DEBUG, "gcs.kernel_log")
    log.start(loop, 2)
    writer = os.open(device, os.O_WRONLY)
    # One write is one read, as with the device.
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_DIRECT)
    for record in records:
        os.write(writer, record)
    os.close(writer)
    async with asyncio.timeout(10):
        while log._loop is not None:  # noqa: ASYNC110 - it ends with the pipe
            await asyncio.sleep(0.001)
    return [
        entry.__dict__["fields"] if entry.message == "kmsg read" else entry.message
        for entry in caplog.records
    ]


async def test_what_is_forwarded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = await forwarded(
        tmp_path, caplog, b"3,7,100,-;a disk is bad\n DEVICE=b8:0\n", b"6,8,101,-;information\n"
    )
    assert found == [
        {
            "priority": "Err",
            "facility": 0,
            "seq": 7,
            "timesincebootmicro": 100,
            "flags": "-",
            "message": "a disk is bad",
            "DEVICE": "b8:0",
        }
    ]


async def test_fragments_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = await forwarded(
        tmp_path,
        caplog,
        b"4,1,100,-;begin\n",
        b"4,2,101,c;middle\n",
        b"4,3,102,+;end\n",
        b"4,4,103,-;another\n",
    )
    assert [entry["message"] for entry in found if isinstance(entry, dict)] == [
        "begin middle end",
        "another",
    ]


async def test_a_gap_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = await forwarded(
        tmp_path, caplog, b"4,10,1,-;first\n", b"4,15,2,c;rest of a lost one\n", b"bad\n"
    )
    assert [entry if isinstance(entry, str) else entry["message"] for entry in found] == [
        "first",
        "4 kmsg entries were overwritten before they were read",
        "failed to parse kmsg entry",
        "rest of a lost one",
    ]


async def test_the_last_record_of_a_full_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not held back until the kernel says something again."""
    device = tmp_path / "kmsg"
    os.mkfifo(device)
    log = KernelLog(4, str(device))
    caplog.set_level(logging.INFO, "gcs.kernel_log")
    log.start(asyncio.get_running_loop(), 2)
    writer = os.open(device, os.O_WRONLY)
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_DIRECT)
    # Pages of a pipe hold one packet each, so more of them are needed than there are by default.
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096 * _BATCH)
    for number in range(_BATCH):
        os.write(writer, f"4,{number},1,-;text\n".encode())
    async with asyncio.timeout(10):
        while len(caplog.records) < _BATCH:  # noqa: ASYNC110 - the log tells nobody
            await asyncio.sleep(0.001)
    log.close()
    os.close(writer)


async def test_a_device_that_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = KernelLog(4, str(tmp_path / "none"))
    log.start(asyncio.get_running_loop(), 2)
    log.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_no_loop_of_the_agents_own_entries(caplog: pytest.LogCaptureFixture) -> None:
    descriptor = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
    try:
        assert writes_to_kernel_log(descriptor)
        log = KernelLog(4)
        log.start(asyncio.get_running_loop(), descriptor)
        assert log._loop is None
    finally:
        os.close(descriptor)
    assert "not forwarded" in caplog.text
