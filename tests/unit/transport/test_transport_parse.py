"""The agent's -transport flag."""

from __future__ import annotations

import pytest

from gcs.transport import UnixTransport, VsockTransport, parse_transport


def test_vsock() -> None:
    assert isinstance(parse_transport("vsock"), VsockTransport)


async def test_a_unix_prefix_may_contain_colons() -> None:
    transport = parse_transport("unix:/nowhere/a:b")
    assert isinstance(transport, UnixTransport)
    with pytest.raises(Exception, match=r"/nowhere/a:b_7: No such file or directory"):
        await transport.dial(7)


@pytest.mark.parametrize("text", ["", "unix", "unix:", "tcp:1", "vsock:3", "Vsock"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="use vsock or unix:<path prefix>") as caught:
        parse_transport(text)
    assert repr(text) in str(caught.value)
