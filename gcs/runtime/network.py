"""Resource `Network`, and what happens to adapters in the life of a container (spec 3.7, 6)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.protocol.settings import NetworkAdapter
from gcs.protocol.trace import span
from gcs.runtime.namespaces import NamespaceAdapter
from gcs.storage.device_events import wait_for
from gcs.storage.driver import ResourceDriver, finish, in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gcs.network.job import Adapter, Connect, Connected, Disconnect, Job, Outcome
    from gcs.network.workers import Workers
    from gcs.runtime.namespaces import Namespace, Namespaces

logger = logging.getLogger(__name__)

#: How long an adapter may take to appear, in seconds; the host gives up a request after 300.
ADAPTER_LIMIT: Final = 60.0
#: How long a DHCP server may take, in seconds (spec 6.3).
DHCP_SECONDS: Final = 30.0
#: Configures an interface for busybox's DHCP client, at the place where the reference has it.
DHCP_SCRIPT: Final = "/sbin/udhcpc_config.script"
#: For everything else about the adapters of a namespace, in seconds.
WORK_SECONDS: Final = 60.0
#: For all of a worker's job, in seconds.
LONGEST: Final = 150.0
#: For bringing adapters back from a container when that has failed; with the time that an adapter
#: may take to appear these make four minutes.
RETURN_SECONDS: Final = 30.0
# First of the routing tables for adapters with one of their own (spec 6.3).
_FIRST_TABLE: Final = 101
_SHOWN: Final = 100


class Network:
    """Finds adapters, and has them moved and configured.

    Args:
        make_workers: Makes what starts network workers; called when the first adapter comes.
        find_pci_device: Waits for a PCI device by the GUID of its channel; returns its directory.
        root: Directory that holds ``sys``.
        limit: Seconds to wait for an adapter.
        dhcp_script: See DHCP_SCRIPT.
    """

    def __init__(
        self,
        make_workers: Callable[[], Workers],
        find_pci_device: Callable[[str], Awaitable[str]],
        *,
        root: str = "/",
        limit: float = ADAPTER_LIMIT,
        dhcp_script: str = DHCP_SCRIPT,
    ) -> None:
        self._make_workers = make_workers
        self._made_workers: Workers | None = None
        self._find_pci_device = find_pci_device
        self._root = root
        self._limit = limit
        self._dhcp_script = dhcp_script

    def expect_work(self) -> None:
        """Have a worker ready: a container will soon want the adapters."""
        self._workers.prepare()

    async def find_interface(self, settings: NetworkAdapter) -> str:
        """Return the name of an adapter's interface in the VM's namespace; wait for it (spec 6.2).

        On Hyper-V it is found by its id, anywhere else by its MAC address.

        Raises:
            GcsError: It doesn't appear, or it isn't clear which it is.
        """
        from gcs.network import interface

        root, name = self._root, settings.id[:_SHOWN]
        with span("network::InstanceIDToName", adapterInstanceID=name):
            if settings.vpci_assigned:
                device = await self._find_pci_device(settings.id)
                place = f"{device}/net"
                found = await self._wait(lambda: interface.find_in(place))
            elif interface.has_vmbus(root):
                place = "VMBus"
                found = await self._wait(lambda: interface.find_by_instance(settings.id, root))
            else:
                from gcs.network.settings import read_mac

                if not settings.mac_address:
                    raise InvalidArgumentError(
                        f"network adapter {name} has no MacAddress: in a VM without VMBus it can't "
                        "be found by its ID"
                    )
                mac = read_mac(settings)
                place = f"MAC address {mac}"
                found = await self._wait(lambda: interface.find_by_mac(mac, root))
        if found is None:
            raise GcsError(
                f"network adapter {name} ({place}) did not appear within {self._limit:g} s; check "
                "that the host attached it to this VM"
            )
        return found

    async def connect(self, namespace: Namespace, adapters: Sequence[NamespaceAdapter]) -> None:
        """Give adapters to the container that the namespace is attached to.

        Raises:
            GcsError: One can't be configured; all of them are back in the VM's namespace then.
        """
        from gcs.network.job import Connect

        attachment = namespace.attachment
        if attachment is None or not adapters:
            return
        planned = await self._plan(namespace, adapters)
        job = Connect(planned, self._dhcp_script, DHCP_SECONDS)
        with_dhcp = sum(not adapter.addresses for adapter in planned)
        limit = min(LONGEST, WORK_SECONDS + with_dhcp * DHCP_SECONDS)
        name = "configureInPlace" if attachment.in_place else "assignToPid"
        descriptor = attachment.open_namespace()
        try:
            with span(f"nicInNamespace::{name}", namespace=namespace.namespace_id):
                outcome = await self._connect(job, descriptor, limit)
        finally:
            # An open one would keep the adapters when the container ends.
            os.close(descriptor)
        for adapter, plan, result in zip(adapters, planned, outcome.connected, strict=True):
            _note_connected(adapter, plan, result)
        try:
            await in_thread(attachment.dns_changed)
        except BaseException:
            await finish(self.disconnect(namespace, adapters))
            raise

    async def disconnect(self, namespace: Namespace, adapters: Sequence[NamespaceAdapter]) -> None:
        """Take adapters away from the namespace's container; those that it doesn't have are fine.

        Raises:
            GcsError: Something is left of one.
        """
        from gcs.network.job import Disconnect

        attachment = namespace.attachment
        connected = [adapter for adapter in adapters if adapter.connected is not None]
        job = Disconnect(tuple(a.connected for a in connected if a.connected is not None))
        for adapter in connected:
            adapter.forget_connection()
        if attachment is None or not connected:
            return
        try:
            descriptor = attachment.open_namespace()
        except GcsError as error:
            # With its last process the kernel has given the adapters back.
            logger.debug("network namespace %s: %s", namespace.namespace_id, error)
            return
        try:
            await self._run(job, descriptor, WORK_SECONDS)
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """End a worker that waits."""
        if self._made_workers is not None:
            await self._made_workers.close()

    @property
    def _workers(self) -> Workers:
        if self._made_workers is None:
            self._made_workers = self._make_workers()
        return self._made_workers

    async def _wait(self, look: Callable[[], str | None]) -> str | None:
        return await wait_for(look, limit=self._limit)

    async def _plan(
        self, namespace: Namespace, adapters: Sequence[NamespaceAdapter]
    ) -> tuple[Adapter, ...]:
        from gcs.network.interface import read_mac_of
        from gcs.network.settings import plan_adapter

        planned = []
        for adapter in adapters:
            interface = await self.find_interface(adapter.settings)
            mac = await in_thread(read_mac_of, interface, self._root)
            table = _table_of(namespace, adapter)
            planned.append(plan_adapter(adapter.settings, interface, mac, table))
        return tuple(planned)

    async def _run(self, job: Job, descriptor: int, limit: float) -> Outcome:
        outcome = await self._workers.run(job, descriptor, limit)
        if outcome.error:
            raise GcsError(outcome.error)
        return outcome

    async def _connect(self, job: Connect, descriptor: int, limit: float) -> Outcome:
        from gcs.network.job import Disconnect

        try:
            outcome = await self._workers.run(job, descriptor, limit)
        except BaseException:
            # Nobody knows how far that worker came.
            await finish(self._take_back(Disconnect(job.adapters), descriptor))
            raise
        if outcome.error:
            raise GcsError(outcome.error)
        return outcome

    async def _take_back(self, job: Disconnect, descriptor: int) -> None:
        try:
            await self._run(job, descriptor, RETURN_SECONDS)
        except GcsError as error:
            logger.error("network adapters are left in a container: %s", error)


class NetworkDriver(ResourceDriver[NetworkAdapter]):
    """Adapters of namespaces.

    Args:
        namespaces: Where the namespaces are.
        network: Moves and configures adapters.
    """

    def __init__(self, namespaces: Namespaces, network: Network) -> None:
        self._namespaces = namespaces
        self._network = network

    async def add(self, settings: NetworkAdapter) -> None:
        """Add an adapter to a namespace, and give it to the namespace's container if it has one.

        Raises:
            InvalidArgumentError: Something about it is malformed.
            GcsError: The namespace has it already, it doesn't appear, or it can't be configured.
        """
        from gcs.network.settings import check_adapter

        check_adapter(settings)
        namespace = self._namespaces.make(settings.namespace_id)
        where, name = namespace.namespace_id[:_SHOWN], settings.id[:_SHOWN]
        adding = span("namespace::AddAdapter", namespace=where, adapter=name)
        with self._namespaces.using(namespace), adding:
            async with namespace.lock:
                if namespace.find(settings.id) is not None:
                    raise GcsError(
                        f"network adapter {name} was added to network namespace {where} already"
                    )
                if namespace.attachment is None:
                    self._network.expect_work()
                    await self._network.find_interface(settings)
                adapter = NamespaceAdapter(settings)
                namespace.adapters.append(adapter)
                try:
                    await self._network.connect(namespace, [adapter])
                except BaseException:
                    namespace.adapters.remove(adapter)
                    raise

    async def remove(self, settings: NetworkAdapter) -> None:
        """Take an adapter from its container and forget it; one that is not known is fine.

        Raises:
            GcsError: It could not be moved out of the container; it is forgotten in any case.
        """
        namespace = self._namespaces.find(settings.namespace_id)
        if namespace is None:
            logger.warning("network namespace %s is not known", settings.namespace_id[:_SHOWN])
            return
        where, name = namespace.namespace_id[:_SHOWN], settings.id[:_SHOWN]
        removing = span("namespace::RemoveAdapter", namespace=where, adapter=name)
        with self._namespaces.using(namespace), removing:
            async with namespace.lock:
                adapter = namespace.find(settings.id)
                if adapter is None:
                    logger.warning("network namespace %s has no adapter %s", where, name)
                    return
                namespace.adapters.remove(adapter)
                await self._network.disconnect(namespace, [adapter])
                await _tell_dns(namespace)


async def _tell_dns(namespace: Namespace) -> None:
    """Take the name servers of an adapter that has gone out of the container's files."""
    if namespace.attachment is None:
        return
    try:
        await in_thread(namespace.attachment.dns_changed)
    except (GcsError, OSError) as error:
        logger.warning("network namespace %s: resolv.conf: %s", namespace.namespace_id, error)


def _table_of(namespace: Namespace, wanted: NamespaceAdapter) -> int:
    """Return the routing table of an adapter's own, 0 for the main one.

    With policy-based routing that is every adapter but the first (spec 6.3); each of them gets
    another, so that they can have equal routes.
    """
    tables = iter(range(_FIRST_TABLE, _FIRST_TABLE + len(namespace.adapters)))
    for index, adapter in enumerate(namespace.adapters):
        settings = adapter.settings
        own = index > 0 if settings.policy_based_routing else settings.enable_low_metric
        table = next(tables) if own else 0
        if adapter is wanted:
            return table
    return 0


def _note_connected(adapter: NamespaceAdapter, plan: Adapter, result: Connected) -> None:
    import msgspec

    adapter.connected = msgspec.structs.replace(plan, interface=result.interface)
    adapter.learned = _read_resolv_conf(result.resolv_conf)
    fields = {"adapter": plan.id, "interface": result.interface, "addresses": result.addresses}
    logger.debug("network adapter configured", extra=fields)


def _read_resolv_conf(text: str) -> tuple[str, str]:
    """Return domains and servers in a file's text, both separated by commas."""
    values: dict[str, list[str]] = {"search": [], "nameserver": []}
    for line in text.splitlines():
        # Where a base has its own script there may be anything.
        word, *rest = line.split() or [""]
        values.get(word, []).extend(rest)
    return ",".join(values["search"]), ",".join(values["nameserver"])
