"""Pseudo-terminals: pair, size, controlling terminal."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from gcs.linux import tty

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    master, slave = tty.open_pair()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_pair_is_connected_and_not_inherited(pair: tuple[int, int]) -> None:
    master, slave = pair
    os.write(slave, b"hello")
    assert os.read(master, 100) == b"hello"
    assert os.ttyname(slave) == f"/dev/pts/{tty.slave_number(master)}"
    assert not os.get_inheritable(master)
    assert not os.get_inheritable(slave)


def test_size_set_on_one_side_is_seen_on_the_other(pair: tuple[int, int]) -> None:
    master, slave = pair
    tty.set_window_size(master, rows=50, columns=132)
    assert tty.window_size(slave) == (50, 132)


@pytest.mark.parametrize(("rows", "columns"), [(-1, 80), (24, 65536)])
def test_impossible_size(pair: tuple[int, int], rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        tty.set_window_size(pair[0], rows, columns)


def test_pipe_is_no_terminal() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="TIOCSWINSZ") as caught:
            tty.set_window_size(reader, 1, 1)
        assert caught.value.errno == errno.ENOTTY
        with pytest.raises(OSError, match="TIOCSPTLCK"):
            tty.unlock_slave(writer)
    finally:
        os.close(reader)
        os.close(writer)


def test_failed_pair_leaves_nothing_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="TIOCSPTLCK"):
        tty.open_pair("/dev/null")
    assert os.listdir("/proc/self/fd") == before


def test_leader_of_a_session_gets_the_signals_of_its_terminal(pair: tuple[int, int]) -> None:
    master, slave = pair
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            tty.set_controlling_terminal(slave)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.write(done, b"x")
            signal.pause()
        finally:
            os._exit(99)
    assert os.read(ready, 1) == b"x"
    os.write(master, b"\x03")
    _, status = os.waitpid(child, 0)
    os.close(ready)
    os.close(done)
    assert os.WTERMSIG(status) == signal.SIGINT
