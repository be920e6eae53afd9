"""Processes held by descriptors: exit statuses, signals, processes that are gone."""

from __future__ import annotations

import os
import select
import signal

import pytest

from gcs.linux.pidfd import (
    ExitStatus,
    open_pidfd,
    poll_exit,
    send_signal,
    wait_exit,
    wait_status,
)


def start(script: str) -> int:
    return os.posix_spawn("/bin/sh", ["sh", "-c", script], {})


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("exit 0", ExitStatus(0), 0),
        ("exit 255", ExitStatus(255), 255),
        ("kill -9 $$", ExitStatus(0, signal.SIGKILL), 137),
        ("kill -15 $$", ExitStatus(0, signal.SIGTERM), 143),
    ],
)
def test_how_a_process_ended(script: str, status: ExitStatus, code: int) -> None:
    pidfd = open_pidfd(start(script))
    try:
        found = wait_status(pidfd)
    finally:
        os.close(pidfd)
    assert found == status
    assert found.shell_code == code


def test_descriptor_is_readable_when_the_process_has_ended_and_can_be_reaped_once() -> None:
    pidfd = open_pidfd(start("exec sleep 100"))
    try:
        assert poll_exit(pidfd) is None
        send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 30)[0] == [pidfd]
        send_signal(pidfd, signal.SIGTERM)  # not reaped yet: no error, no effect
        assert wait_exit(pidfd) == 128 + signal.SIGKILL
        with pytest.raises(ChildProcessError):
            wait_exit(pidfd)
        with pytest.raises(ProcessLookupError, match=f"pidfd_send_signal {signal.SIGTERM:d}"):
            send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)


def test_no_such_process_is_named() -> None:
    pid = start("exit 0")
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError) as caught:
        open_pidfd(pid)
    assert caught.value.filename == f"process {pid}"


def test_descriptor_is_not_inherited() -> None:
    pid = start("exit 0")
    pidfd = open_pidfd(pid)
    try:
        assert not os.get_inheritable(pidfd)
        wait_exit(pidfd)
    finally:
        os.close(pidfd)
