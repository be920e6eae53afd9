"""What commands and keepers say to each other, over a socket that keeps message boundaries."""

from typing import Any

import msgspec

from uvm.network.adapter import Adapter
from uvm.spec import ContainerOptions, ProcessOptions


class Run(msgspec.Struct, tag=True):
    """Run a container. Answers: :class:`Started` with its streams, :class:`Exited`,
    perhaps :class:`OutOfMemory`.

    Attributes:
        layers: Read-only images of the root file system, top-most first.
        scratch: Image to write on.
        options: The container.
        adapters: Its network adapters.
        stdin: Whether to offer standard input.
        detach: Don't connect streams; the container outlives the command.
    """

    layers: list[str]
    scratch: str
    options: ContainerOptions
    adapters: list[Adapter] = []
    stdin: bool = False
    detach: bool = False


class Execute(msgspec.Struct, tag=True):
    """Run a process. Answers as for :class:`Run`.

    Attributes:
        container: Beginning of a container's id; ``None`` runs it in the VM itself.
        options: The process. In a container, an empty working directory is the container's own,
            and the environment is added to the container's.
        user: Who to run as, by name or number; of a container only, whose own it is by default.
        stdin: Whether to offer standard input.
    """

    container: str | None
    options: ProcessOptions
    user: str | None = None
    stdin: bool = False


class Signal(msgspec.Struct, tag=True):
    """Send a signal to the process of this connection."""

    number: int


class Resize(msgspec.Struct, tag=True):
    """Tell the terminal of the process of this connection its size."""

    height: int
    width: int


class List(msgspec.Struct, tag=True):
    """Say what there is. Answer: :class:`Listing`."""


class Kill(msgspec.Struct, tag=True):
    """Send a signal to a container's init or to any process. Answer: :class:`Done`.

    Attributes:
        target: Beginning of a container's id, or a process id in the VM.
        number: The signal.
    """

    target: str
    number: int


class SetState(msgspec.Struct, tag=True):
    """Pause or resume containers. Answer: :class:`Done`.

    Attributes:
        container: Beginning of a container's id; ``None`` means all of them.
        paused: Whether their processes are to stand still.
    """

    container: str | None
    paused: bool


class Measure(msgspec.Struct, tag=True):
    """Ask for the statistics of containers. Answers: :class:`Statistics` of each; :class:`Done`.

    Attributes:
        container: Beginning of a container's id; ``None`` means all of them.
    """

    container: str | None


class Stacks(msgspec.Struct, tag=True):
    """Ask for the agent's stacks. Answer: :class:`Text`."""


class Logs(msgspec.Struct, tag=True):
    """Ask for the agent's log. Answers: :class:`Text`, one or more; then :class:`Done`.

    Attributes:
        follow: Go on until the connection is closed.
    """

    follow: bool = False


class Stop(msgspec.Struct, tag=True):
    """End the VM. Answer: :class:`Done`, when it is gone.

    Attributes:
        force: Cut it off at once, instead of a power-off by the agent.
    """

    force: bool = False


class Started(msgspec.Struct, tag=True):
    """A process runs; its streams come with the message.

    Attributes:
        container_id: Its container, or the id of the VM.
        pid: Its id in the VM.
        streams: Names of the streams, in the order of the descriptors.
    """

    container_id: str
    pid: int
    streams: list[str]


class Exited(msgspec.Struct, tag=True):
    """The process of this connection ended."""

    exit_code: int


class OutOfMemory(msgspec.Struct, tag=True):
    """The container of this connection has ended, and it had run out of memory.

    Attributes:
        kills: How many of its processes the kernel killed for that.
    """

    kills: int


class ProcessEntry(msgspec.Struct):
    """A process; ``command`` is empty where the keeper did not start it."""

    pid: int
    command: list[str] = []


class ContainerEntry(msgspec.Struct):
    """A container and its processes.

    Attributes:
        id: Its id.
        command: What its init runs.
        processes: Its processes.
        ports: Published ports, as a person writes them.
    """

    id: str
    command: list[str]
    processes: list[ProcessEntry]
    ports: list[str] = []


class Listing(msgspec.Struct, tag=True):
    """A VM and what runs in it.

    Attributes:
        name: Name of the VM.
        pid: Process id of its QEMU.
        memory_mib: Size of its memory.
        accelerator: ``kvm`` or ``tcg``.
        uptime: Seconds since it was ready.
        containers: Its containers.
        processes: Processes in the VM itself that were started by commands.
    """

    name: str
    pid: int
    memory_mib: int
    accelerator: str
    uptime: float
    containers: list[ContainerEntry]
    processes: list[ProcessEntry]


class Statistics(msgspec.Struct, tag=True):
    """What the control group of a container says.

    Attributes:
        container_id: The container.
        metrics: In the form of the agent (spec 1.8).
    """

    container_id: str
    metrics: dict[str, Any]


class Text(msgspec.Struct, tag=True):
    """A piece of text."""

    text: str


class Done(msgspec.Struct, tag=True):
    """It is done, and there is nothing to tell."""


class Failed(msgspec.Struct, tag=True):
    """It did not work.

    Attributes:
        message: Why.
        hresult: The agent's result code, when it was the agent that refused.
    """

    message: str
    hresult: int | None = None


Request = Run | Execute | Signal | Resize | List | Kill | SetState | Measure | Stacks | Logs | Stop
Answer = Started | Exited | OutOfMemory | Listing | Statistics | Text | Done | Failed
