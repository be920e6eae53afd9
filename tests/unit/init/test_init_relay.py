"""The relay's descriptors, with a host that is away for long."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from gcs.init import relay
from gcs.init.dial import Dialer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class LateHost(Dialer):
    """Refuses all attempts but the last."""

    def __init__(self, prefix: str, refusals: int) -> None:
        super().__init__(f"unix:{prefix}")
        self.refusals = refusals
        self.open_descriptors: set[int] = set()

    def start(self, port: int) -> socket.socket:
        self.open_descriptors.add(len(os.listdir("/proc/self/fd")))
        if self.refusals:
            self.refusals -= 1
            number = errno.ECONNREFUSED
            raise OSError(number, os.strerror(number), f"port {port}")
        return super().start(port)  # type: ignore[return-value]


def test_thousands_of_failed_attempts_cost_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RETRY_INTERVAL", 0.0)
    before = os.listdir("/proc/self/fd")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/port_1")
        listener.listen()
        host = LateHost(f"{tmp_path}/port", refusals=3000)
        source, sink = os.pipe()
        os.write(sink, b"last words\n")
        os.close(sink)
        child = os.posix_spawn("/bin/true", ["true"], {})
        process = os.pidfd_open(child)
        relay.Relay(host, 1, source).run(process)
        os.waitpid(child, 0)
        os.close(process)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b"last words\n"
            assert connection.recv(100) == b""
    assert host.refusals == 0
    assert (
        max(host.open_descriptors) - min(host.open_descriptors) <= 1
    )  # the pipe, closed at its end
    assert os.listdir("/proc/self/fd") == before
