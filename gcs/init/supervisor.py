"""Leaving last words with the process that outlives the agent: PID 1, or the relay.

An agent that fails says so itself.  One that is killed, or crashes in C code, can't: so it sends
its log, and the pipe that collects its output, to its supervisor in advance.  The descriptors wait
in the socket, and are taken out only when the agent has died (`gcs/init/reaper.c`,
`gcs.init.relay`).

The socket is found by this module's variable, not by the environment: the agent runs in the very
interpreter that /init forked (`gcs.init.launch`), and another program is to inherit nothing.
"""

from __future__ import annotations

from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket, socketpair

_SIZE = 4  # of a descriptor, an int

_channel: socket | None = None


def make_channel() -> tuple[socket, socket]:
    """The supervisor's end and the agent's, both close-on-exec; OSError when there is no more."""
    return socketpair(AF_UNIX, SOCK_SEQPACKET)


def use_channel(channel: tuple[socket, socket]) -> None:
    """Become, after a fork, the process that is supervised over this channel."""
    global _channel
    supervisors, _channel = channel
    supervisors.close()


def leave(log: int, output: int, form: str) -> None:
    """Leave descriptors with the supervisor, if there is one; to be called once.

    log: where entries go.
    output: reading end of the pipe that descriptors 1 and 2 lead to.
    form: of the log, "json" or "text".

    Raises OSError when the supervisor has gone.
    """
    global _channel  # noqa: PLW0603 - see use_channel
    if _channel is None:
        return
    descriptors = b"".join(each.to_bytes(_SIZE, "little") for each in (log, output))
    _channel.sendmsg([form[:1].encode()], [(SOL_SOCKET, SCM_RIGHTS, descriptors)])
    _channel.close()
    _channel = None


def take(channel: socket) -> tuple[int, int, str] | None:
    """What a process has left: descriptors of its log and its output, and "json" or "text".

    None when it has left nothing.  The caller closes both descriptors.
    """
    channel.setblocking(False)
    try:
        form, ancillary, _, _ = channel.recvmsg(1, 64)
    except BlockingIOError:
        return None
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS and len(data) == 2 * _SIZE:
            log, output = (int.from_bytes(data[at : at + _SIZE], "little") for at in (0, _SIZE))
            return log, output, "json" if form == b"j" else "text"
    return None
