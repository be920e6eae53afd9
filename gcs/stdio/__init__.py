"""Relays between the streams of a process and the host (spec 1.11, 4.9).

Life of a relay::

    relay = PipeRelay.create("container c1")    # pipes; before the process exists
    ...spawn with relay.child.stdin, .stdout, .stderr...
    relay.child.close()
    relay.attach(await connect(transport, ports))   # from here on bytes flow
    ...the process exits...
    await relay.finish()                        # its output is with the host: report the exit
    relay.close()                               # when container or process is forgotten

The connections of a container's init come back when they are lost, and its output can go to a file
as well::

    reconnect = Reconnect(transport, ports)
    relay.attach(sockets, reconnect=reconnect, tee=TeeLog(descriptor, path))
    relay.connection_lost()                     # when the bridge has lost the host
    relay.stop_reconnecting()                   # when the container was killed

A process with a terminal has a TtyRelay instead, made from the master.  A process outside
containers gets the sockets themselves: ChildDescriptors.of_sockets().
"""

from gcs.stdio.child import ChildDescriptors
from gcs.stdio.pipe_relay import PipeRelay
from gcs.stdio.reconnect import Reconnect
from gcs.stdio.sockets import StdioPorts, StdioSockets, connect
from gcs.stdio.tee_log import TeeLog
from gcs.stdio.tty_relay import TtyRelay

__all__ = [
    "ChildDescriptors",
    "PipeRelay",
    "Reconnect",
    "StdioPorts",
    "StdioSockets",
    "TeeLog",
    "TtyRelay",
    "connect",
]
