"""Entropy that arrives in pieces, late, or not at all; the kernel log is a file."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from gcs.init import entropy, kmsg
from gcs.init.dial import Dialer
from gcs.linux.entropy import add_entropy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Host:
    """A listening port, and what the machine writes to its kernel log."""

    def __init__(self, directory: Path) -> None:
        self.dialer = Dialer(f"unix:{directory}/port")
        self.log = directory / "kmsg"
        self.log.touch()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{directory}/port_1")
        self.listener.listen()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    before = os.listdir("/proc/self/fd")
    host = Host(tmp_path)
    monkeypatch.setattr(kmsg, "DEVICE", str(host.log))
    yield host
    host.listener.close()
    assert os.listdir("/proc/self/fd") == before


def test_all_that_the_host_sends_is_fed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[bytes] = []
    real_feed = add_entropy

    def feed(device: int, data: bytes) -> None:
        real_feed(device, data)
        fed.append(data)

    def answer() -> None:
        with host.listener.accept()[0] as connection:
            for piece in (b"a" * 100, b"b" * 9000):
                connection.sendall(piece)

    monkeypatch.setattr(entropy, "add_entropy", feed)
    thread = threading.Thread(target=answer)
    thread.start()
    assert entropy.seed_from_host(host.dialer, 1) == 9100
    thread.join()
    assert b"".join(fed) == b"a" * 100 + b"b" * 9000
    assert host.log.read_text() == ""


def test_silent_host_ends_the_wait(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "TIMEOUT", 0.1)
    assert entropy.seed_from_host(host.dialer, 1) == 0
    report = "<4>init: entropy of port 1, after 0 bytes: the host sent nothing"
    assert host.log.read_text().startswith(report)


def test_no_listener(host: Host) -> None:
    assert entropy.seed_from_host(host.dialer, 2) == 0
    assert host.log.read_text() == "<4>init: entropy: port 2: No such file or directory\n"
