"""The network worker: a process that does one job and ends.

It has what the agent does without: pyroute2, and a thread that goes into other network namespaces.
Its standard input is a socket, by which it gets the job, with a descriptor of the namespace, and
answers with the outcome.  It is started before there is a job, since it takes a while to import
what it needs; the agent closing the socket ends it.
"""

from __future__ import annotations

import socket
import sys

import msgspec

from gcs.network.configure import carry_out
from gcs.network.job import LENGTH_BYTES, LONGEST, Job, Outcome, pack, receive
from gcs.protocol.errors import GcsError, error_text

_STANDARD_INPUT = 0


def main() -> None:
    """Wait for a job, do it, answer; exit with status 1 when what came was none."""
    with socket.socket(fileno=_STANDARD_INPUT) as channel:
        head, namespaces, _, _ = socket.recv_fds(channel, LENGTH_BYTES, 1)
        if not head:
            return
        length = int.from_bytes(head, "little")
        if len(head) != LENGTH_BYTES or len(namespaces) != 1 or length > LONGEST:
            sys.exit("this is no job for a network worker")
        job = msgspec.msgpack.decode(receive(channel, length), type=Job)
        channel.sendall(pack(_carry_out(job, namespaces[0])))


def _carry_out(job: Job, namespace: int) -> Outcome:
    try:
        return carry_out(job, namespace)
    except (GcsError, OSError) as error:
        return Outcome(error=error_text(error))
    except Exception as error:  # noqa: BLE001  (the agent is told)
        import traceback

        return Outcome(error=error_text(error), defect=traceback.format_exc())
