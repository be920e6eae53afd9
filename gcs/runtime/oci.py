"""What the agent asks of an OCI runtime; :mod:`gcs.runtime.runc` is the one that exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from gcs.runtime.children import Child
    from gcs.stdio import ChildDescriptors


class RuntimeProcess(NamedTuple):
    """A process that a runtime made in a container.

    Attributes:
        child: The process, a child of the agent now.
        console: Master of its terminal, owned by the receiver; ``None`` without a terminal.
    """

    child: Child
    console: int | None


class OciRuntime(Protocol):
    """A runtime with the command set of runc.

    Every method raises GcsError: with SystemNotFoundError, SystemAlreadyExistsError,
    SystemAlreadyStoppedError, InvalidStateError and InvalidArgumentError where the runtime says
    so, and when it can't be run, fails, or is not done in time (it is killed then).
    """

    async def create(
        self, container_id: str, bundle: str, descriptors: ChildDescriptors | None
    ) -> RuntimeProcess:
        """Create a container and its init, which waits for :meth:`start`.

        descriptors: What the init gets as 0, 1 and 2; None: it gets a terminal.
        """
        ...

    async def exec(
        self, container_id: str, process: dict[str, Any], descriptors: ChildDescriptors | None
    ) -> RuntimeProcess:
        """Run an OCI process in a container; descriptors as for :meth:`create`."""
        ...

    async def start(self, container_id: str) -> None:
        """Let the init run its program."""
        ...

    async def kill(self, container_id: str, signal: int, *, everything: bool = False) -> None:
        """Send a signal to the init, or to all processes, even when the init is gone."""
        ...

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove what the runtime keeps of a stopped container.

        force: Kill it before; a container that doesn't exist is no error then.
        """
        ...

    async def pause(self, container_id: str) -> None:
        """Freeze all processes."""
        ...

    async def resume(self, container_id: str) -> None:
        """Thaw all processes."""
        ...

    async def state(self, container_id: str) -> dict[str, Any]:
        """Return the OCI state."""
        ...

    async def ps(self, container_id: str) -> list[int]:
        """Return the process ids, in the agent's pid namespace."""
        ...

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Set limits; resources: OCI LinuxResources."""
        ...
