"""Network namespaces, as the host knows them: by an id (spec 3.7, 6.1)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import NetworkAdapter
from gcs.storage.driver import ResourceDriver

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


class Namespace:
    """A network namespace of the host's.

    Attributes:
        namespace_id: In lower case.
        adapters: Its adapters, in the order they were added.
        containers: Ids of the containers that use it.
    """

    __slots__ = ("adapters", "containers", "namespace_id")

    def __init__(self, namespace_id: str) -> None:
        self.namespace_id = namespace_id
        self.adapters: list[NetworkAdapter] = []
        self.containers: set[str] = set()

    @property
    def dns_settings(self) -> Iterator[tuple[str, str]]:
        """Search list and servers of each adapter, both separated by commas."""
        return ((adapter.dns_suffix, adapter.dns_server_list) for adapter in self.adapters)


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

    def leave(self, namespace: Namespace, container_id: str, *, forget: bool) -> None:
        """Note that a container doesn't use a namespace any more.

        Args:
            namespace: The namespace.
            container_id: The container.
            forget: Drop the namespace, unless other containers use it.
        """
        namespace.containers.discard(container_id)
        known = self._namespaces.get(namespace.namespace_id) is namespace
        if forget and known and not namespace.containers:
            del self._namespaces[namespace.namespace_id]


class NetworkDriver(ResourceDriver[NetworkAdapter]):
    """Adapters of namespaces.

    This agent can't configure any, so a sandbox needs the annotation
    ``io.microsoft.cri.skip-pod-networking``, or to be a virtual pod's.

    Args:
        namespaces: Where the namespaces are.
    """

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces

    async def add(self, settings: NetworkAdapter) -> None:
        """Refuse.

        Raises:
            GcsError: Always.
        """
        raise GcsError(
            f"network adapter {settings.id[:100]} can't be added to namespace "
            f"{settings.namespace_id[:100]}: network adapters are not supported by this agent yet"
        )

    async def remove(self, settings: NetworkAdapter) -> None:
        """Forget an adapter; one that is not known is fine (spec 3.7)."""
        namespace = self._namespaces.find(settings.namespace_id)
        if namespace is None:
            logger.warning("network namespace %s is not known", settings.namespace_id[:100])
            return
        wanted = settings.id.lower()
        namespace.adapters = [
            adapter for adapter in namespace.adapters if adapter.id.lower() != wanted
        ]
