"""Network namespaces, as the host knows them: by an id (spec 3.7, 6.1)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gcs.network.job import Adapter
    from gcs.protocol.settings import NetworkAdapter


class NamespaceAdapter:
    """An adapter of a namespace.

    Attributes:
        settings: From the host.
        connected: What it is in the container's namespace; ``None`` while it waits for one.
        learned: Domains and servers that came by DHCP, both separated by commas.
    """

    __slots__ = ("connected", "learned", "settings")

    def __init__(self, settings: NetworkAdapter) -> None:
        self.settings = settings
        self.connected: Adapter | None = None
        self.learned = ("", "")

    def forget_connection(self) -> None:
        """Note that it is in the VM's namespace again, or gone."""
        self.connected = None
        self.learned = ("", "")

    @property
    def dns(self) -> tuple[str, str]:
        """Domains and servers, both separated by commas: the host's, or what came by DHCP."""
        suffixes, servers = self.learned
        return self.settings.dns_suffix or suffixes, self.settings.dns_server_list or servers


class Attachment:
    """The container whose network namespace has the adapters.

    Args:
        container_id: Its id.
        open_namespace: Opens a descriptor of its network namespace; GcsError when it has ended.
        dns_changed: Called when there are other name servers or domains; may block.

    Attributes:
        in_place: It uses the VM's own namespace.
    """

    __slots__ = ("container_id", "dns_changed", "in_place", "open_namespace")

    def __init__(
        self,
        container_id: str,
        open_namespace: Callable[[], int],
        dns_changed: Callable[[], None],
        *,
        in_place: bool,
    ) -> None:
        self.container_id = container_id
        self.open_namespace = open_namespace
        self.dns_changed = dns_changed
        self.in_place = in_place


class Namespace:
    """A network namespace of the host's.

    Attributes:
        namespace_id: In lower case.
        adapters: Its adapters, in the order they were added.
        container: Id of the container that is made, or was made, with it.
        attachment: That container, once it has the adapters.
        lock: Held by who adds, removes or moves adapters.
    """

    __slots__ = ("adapters", "attachment", "container", "lock", "namespace_id", "users")

    def __init__(self, namespace_id: str) -> None:
        self.namespace_id = namespace_id
        self.adapters: list[NamespaceAdapter] = []
        self.container: str | None = None
        self.attachment: Attachment | None = None
        self.lock = asyncio.Lock()
        self.users = 0

    @property
    def dns_settings(self) -> Iterator[tuple[str, str]]:
        """Search list and servers of each adapter, both separated by commas."""
        return (adapter.dns for adapter in self.adapters)

    def find(self, adapter_id: str) -> NamespaceAdapter | None:
        """Return an adapter by its id, in any case."""
        wanted = adapter_id.lower()
        for adapter in self.adapters:
            if adapter.settings.id.lower() == wanted:
                return adapter
        return None


class Namespaces:
    """All network namespaces that the host has named; to be used on one thread."""

    __slots__ = ("_namespaces",)

    def __init__(self) -> None:
        self._namespaces: dict[str, Namespace] = {}

    def find(self, namespace_id: str) -> Namespace | None:
        """Return a namespace by its id, in any case."""
        return self._namespaces.get(namespace_id.lower())

    def make(self, namespace_id: str) -> Namespace:
        """Return a namespace by its id; one that is not known is made."""
        key = namespace_id.lower()
        return self._namespaces.setdefault(key, Namespace(key))

    def enter(self, namespace: Namespace, container_id: str) -> None:
        """Note that a container is made with a namespace.

        Raises:
            GcsError: Another one has it.
        """
        if namespace.container is not None:
            raise GcsError(
                f"network namespace {namespace.namespace_id} is in use by container "
                f"{namespace.container}: delete that first"
            )
        namespace.container = container_id

    def leave(self, namespace: Namespace) -> None:
        """Note that its container is gone; it can be used by another one."""
        namespace.container = None
        self._drop_unused(namespace)

    @contextlib.contextmanager
    def using(self, namespace: Namespace) -> Iterator[None]:
        """Keep a namespace while the block runs; afterwards it goes, if nobody needs it."""
        namespace.users += 1
        try:
            yield
        finally:
            namespace.users -= 1
            self._drop_unused(namespace)

    def _drop_unused(self, namespace: Namespace) -> None:
        needed = namespace.adapters or namespace.container is not None or namespace.users
        if not needed and self._namespaces.get(namespace.namespace_id) is namespace:
            del self._namespaces[namespace.namespace_id]
