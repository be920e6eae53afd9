"""Connecting to ports that are unix sockets, and to vsock ports nobody listens on."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.init.dial import Dialer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def test_connection_is_made_non_blocking_and_not_inherited(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/port_109")
        listener.listen()
        connection = Dialer(f"unix:{tmp_path}/port").dial(109, 10)
        try:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
            assert not os.get_blocking(connection.fileno())
            assert not os.get_inheritable(connection.fileno())
            assert connection.recv(10) == b"hello"
        finally:
            connection.close()


def test_port_without_listener_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Dialer(f"unix:{tmp_path}/port").dial(7, 10)
    assert caught.value.filename == "port 7"


def test_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        Dialer(f"unix:{tmp_path}/{'x' * 200}").dial(7, 10)


def test_listener_that_does_not_accept(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/port_1")
        listener.listen(0)
        dialer = Dialer(f"unix:{tmp_path}/port")
        first = dialer.dial(1, 10)
        try:
            with pytest.raises(OSError, match="unavailable") as caught:
                dialer.dial(1, 10)
            assert caught.value.errno == errno.EAGAIN
        finally:
            first.close()


def test_vsock_port_nobody_listens_on_is_named() -> None:
    with pytest.raises(OSError, match=r"port 65000") as caught:
        Dialer().dial(65000, 10)
    assert caught.value.filename == "port 65000"
