"""`vsockexec -r`: a relay between a program's output and a host that may go away (spec 7.2).

    program --writes--> pipe --> relay --> connection to a port of the host

The program sees nothing of a host that is not there yet, or that changes because the machine is
moved to another one; without the relay a lost connection would end the agent and so the machine.

Better than the reference in four points (spec 11, oddities 63 and 64): a hang-up is noticed at
once, not at the next output, because a host that resumes a moved machine waits for this connection;
no descriptor is lost by a failed attempt; while the host is away the program is not blocked: the
oldest lines are dropped, and counted in the kernel log; signals reach the program.

An agent that dies without a word is reported on its behalf, see `gcs.init.supervisor`.
"""

from __future__ import annotations

import os
import select
import time

from gcs.init import kmsg
from gcs.init.launch import run_program
from gcs.init.supervisor import make_channel, take, use_channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from _socket import socket
    from collections.abc import Callable

    from gcs.init.dial import Dialer
else:
    import _signal as signal  # `signal` itself takes 5 ms to import, for its enumerations

RETRY_INTERVAL = 0.1

# Lines of log for several minutes of a busy agent; only used while the host is away or slow.
BUFFER_LIMIT = 1024 * 1024

# How long the last output of a program that has ended may wait for a host that is away; the status
# of the program is told only after that.
FINAL_FLUSH = 10.0

_CHUNK = 65536
_LAST_OUTPUT = 16 * 1024

_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
)


def run_relayed(
    dialer: Dialer, ports: dict[int, int], command: list[str], environment: dict[str, str]
) -> int:
    """Run a program with its output relayed to one port; returns its status, 128 + n by signal n.

    ports: by descriptor, 1 or 2 or both; the port of 2 is preferred, and takes both outputs.
    Status 127 when the program cannot be executed.  Raises OSError when there can be no child.
    """
    source, sink = os.pipe()  # both close-on-exec
    ours, theirs = channel = make_channel()
    child = os.fork()
    if child == 0:
        os.close(source)
        use_channel(channel)
        for descriptor in (1, 2):
            if descriptor in ports:
                os.dup2(sink, descriptor)
        os.close(sink)
        try:
            run_program(command, environment)
        except OSError as error:
            kmsg.say(f"vsockexec: {kmsg.describe(error)}")
            raise SystemExit(127) from None
    os.close(sink)
    theirs.close()
    process = os.pidfd_open(child)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _: _forward(process, received))
    relay = Relay(dialer, ports.get(2) or ports[1], source, lambda: last_words(process, ours))
    relay.run(process)
    _, status = os.waitpid(child, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def last_words(process: int, channel: socket) -> bytes:
    """A log entry about the end of the process of this pidfd, if it left anything to be told with.

    Nothing for status 0.
    """
    left = take(channel)
    if left is None:
        return b""
    log, output, form = left
    os.close(log)
    ended = os.waitid(os.P_PIDFD, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None or (ended.si_code == os.CLD_EXITED and ended.si_status == 0):
        os.close(output)
        return b""
    by_signal = ended.si_code != os.CLD_EXITED
    how = "killed by signal" if by_signal else "exited with status"
    text = _quoted(_read_end(output))
    seconds, fraction = divmod(time.time_ns(), 10**9)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09}Z"
    if form == "json":
        line = (
            f'{{"time":"{stamp}","level":"fatal","msg":"gcs {how} {ended.si_status}",'
            f'"{"signal" if by_signal else "status"}":{ended.si_status},"output":{text}}}\n'
        )
    else:
        line = f'time={stamp} level=fatal msg="gcs {how} {ended.si_status}" output={text}\n'
    return line.encode()


def _quoted(data: bytes) -> str:
    """A JSON string, without a library that may be what the agent has failed of."""
    plain = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else "" for byte in data)
    escaped = (f"\\u{byte:04x}" if byte < 0x80 else "\\ufffd" for byte in data)
    return '"' + "".join(a or b for a, b in zip(plain, escaped, strict=True)) + '"'


def _read_end(descriptor: int) -> bytes:
    """The last of what can be read now; closes the descriptor."""
    os.set_blocking(descriptor, False)
    text = b""
    try:
        while data := os.read(descriptor, _CHUNK):
            text += data
    except BlockingIOError:
        return text[-_LAST_OUTPUT:]  # others have the writing end still open
    finally:
        os.close(descriptor)
    return text[-_LAST_OUTPUT:]


def _forward(process: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return  # it has ended, and so will the relay


class OutputBuffer:
    """Bytes on their way to the host, from the start of the line that is being sent.

    A new connection starts with a whole line: the host parses this stream, and half a line at its
    start would end that for good (spec 2.2).
    """

    __slots__ = ("_data", "_limit", "_sent", "dropped")

    def __init__(self, limit: int = BUFFER_LIMIT) -> None:
        """`limit` is in bytes."""
        self._data = bytearray()
        self._sent = 0
        self._limit = limit
        self.dropped = 0
        """Number of lines dropped."""

    @property
    def full(self) -> bool:
        """Whether there is as much as the limit allows."""
        return len(self._data) - self._sent >= self._limit

    def append(self, data: bytes) -> None:
        """Take more bytes; never refuses."""
        self._data += data

    def unsent(self) -> memoryview:
        """What is to be sent next; release it before changing the buffer."""
        return memoryview(self._data)[self._sent :]

    def mark_sent(self, count: int) -> None:
        """Forget the lines that are complete with `count` more bytes."""
        self._sent += count
        complete = self._data.rfind(b"\n", 0, self._sent) + 1
        if not complete and self._sent > _CHUNK:
            complete = self._sent  # no text in lines
        del self._data[:complete]
        self._sent -= complete

    def restart(self) -> None:
        """Begin a new connection, with the line that was cut."""
        self._sent = 0

    def drop_oldest(self) -> None:
        """Drop whole lines from the start until there is less than the limit."""
        excess = len(self._data) - self._limit
        if excess <= 0:
            return
        end = self._data.find(b"\n", excess) + 1 or len(self._data)
        self.dropped += self._data.count(b"\n", 0, end) or 1
        del self._data[:end]
        self._sent = 0

    def __len__(self) -> int:
        """Number of bytes not sent yet."""
        return len(self._data) - self._sent


class Relay:
    """Copies a pipe to a port, over one connection after another."""

    __slots__ = (
        "_buffer",
        "_connected",
        "_connection",
        "_dialer",
        "_epilogue",
        "_port",
        "_retry_at",
        "_source",
    )

    def __init__(
        self,
        dialer: Dialer,
        port: int,
        source: int,
        epilogue: Callable[[], bytes] = lambda: b"",
    ) -> None:
        """Take what is to be connected.

        source: reading end of the pipe; the relay closes it.
        epilogue: called when the process has ended; what is to follow its output.
        """
        self._epilogue = epilogue
        self._dialer = dialer
        self._port = port
        self._source = source
        self._buffer = OutputBuffer()
        self._connection: socket | None = None
        self._connected = False
        self._retry_at = 0.0

    def run(self, process: int) -> None:
        """Relay until the process of this pidfd has ended and its output is sent, or no host came.

        Output of the program's own children after its end is not waited for.
        """
        os.set_blocking(self._source, False)
        deadline = None
        while deadline is None or (self._buffer and time.monotonic() < deadline):
            self._connect()
            events = self._wait(process if deadline is None else None, deadline)
            if self._source in events:
                self._read()
            if self._connection is not None and self._connection.fileno() in events:
                self._advance()
            if process in events:
                deadline = time.monotonic() + FINAL_FLUSH
                while self._source >= 0 and self._read():
                    continue
                self._buffer.append(self._epilogue())
        if self._source >= 0:
            os.close(self._source)
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> None:
        """Begin a new connection when there is none and the time has come."""
        if self._connection is not None or time.monotonic() < self._retry_at:
            return
        try:
            self._connection = self._dialer.start(self._port)
        except OSError:
            self._lose_connection()

    def _wait(self, process: int | None, deadline: float | None) -> set[int]:
        """Descriptors on which something can be done."""
        poll = select.poll()
        if process is not None:
            poll.register(process, select.POLLIN)
        # While there is a connection a slow host slows the program down; without one it must not.
        if self._source >= 0 and not (self._connected and self._buffer.full):
            poll.register(self._source, select.POLLIN)
        now = time.monotonic()
        times = [] if deadline is None else [deadline - now]
        if self._connection is None:
            times.append(self._retry_at - now)
        else:
            writing = len(self._buffer) > 0 or not self._connected
            poll.register(
                self._connection,
                select.POLLIN | select.POLLRDHUP | (select.POLLOUT if writing else 0),
            )
        timeout = max(0.0, min(times)) * 1000 if times else None
        return {descriptor for descriptor, _ in poll.poll(timeout)}

    def _read(self) -> bool:
        """Take what is in the pipe; False when there is nothing (more)."""
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            os.close(self._source)
            self._source = -1
            return False
        self._buffer.append(data)
        if not self._connected:
            self._buffer.drop_oldest()
        return True

    def _advance(self) -> None:
        """Complete the connection, or use it: notice a hang-up, then send."""
        connection = self._connection
        if connection is None:
            return
        try:
            if not self._connected:
                self._dialer.finish(connection, self._port)
                self._connected = True
                self._buffer.restart()
                self._report_dropped()
            if self._hung_up(connection):
                self._lose_connection()
                return
            with self._buffer.unsent() as data:
                count = connection.send(data[:_CHUNK]) if data else 0
            self._buffer.mark_sent(count)
        except BlockingIOError:
            return
        except OSError:
            self._lose_connection()

    def _hung_up(self, connection: socket) -> bool:
        """Whether the host has closed its side; it never sends anything that matters."""
        try:
            return not connection.recv(_CHUNK)
        except BlockingIOError:
            return False

    def _lose_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._connected = False
        self._retry_at = time.monotonic() + RETRY_INTERVAL

    def _report_dropped(self) -> None:
        if self._buffer.dropped:
            kmsg.warning(f"{self._buffer.dropped} lines of output dropped while the host was away")
            self._buffer.dropped = 0
