"""Moving adapters between network namespaces and configuring them (spec 6.3).  For the worker.

To be run in a process of one thread that starts in the VM's namespace: it goes into the other one
and stays there.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from gcs.linux import netns
from gcs.network.job import Connect, Connected, Outcome
from gcs.network.links import Links
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.network.job import Adapter, Disconnect, Job
    from gcs.network.links import Link

LOOPBACK = "lo"


class Worksite:
    """The namespace of the VM, and the one in which the calling thread is from now on.

    Args:
        namespace: Descriptor of the other one; it may be the VM's own.
    """

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        self.outer = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.in_place = netns.are_same(self.outer, namespace)
        self.outside = Links("the VM")
        netns.enter(namespace)
        self.inside = self.outside if self.in_place else Links("the container's network namespace")

    def close(self) -> None:
        """Close all descriptors; the thread stays where it is."""
        self.outside.close()
        self.inside.close()
        os.close(self.outer)


def carry_out(job: Job, namespace: int) -> Outcome:
    """Do a job.

    Args:
        job: What to do.
        namespace: Descriptor of the network namespace that it is about.

    Raises:
        GcsError: The job fails before anything was changed.
        OSError: The descriptor is of no network namespace.
    """
    site = Worksite(namespace)
    try:
        if isinstance(job, Connect):
            return _connect(job, site)
        return _disconnect(job, site)
    finally:
        site.close()


def _connect(job: Connect, site: Worksite) -> Outcome:
    begun: list[tuple[Adapter, Link]] = []
    connected: list[Connected] = []
    remarks: list[str] = []
    try:
        if not site.in_place:
            _raise_loopback(site.inside)
        for adapter in job.adapters:
            link = site.outside.require(adapter.interface)
            begun.append((adapter, link))
            connected.append(_connect_adapter(adapter, link, job, site, remarks))
    except BaseException as error:
        left = [text for adapter, link in reversed(begun) for text in _release(adapter, link, site)]
        if not isinstance(error, GcsError):
            # A defect: let it be seen where it happened.
            error.add_note(f"left: {left}")
            raise
        where = f"network adapter {job.adapters[len(connected)].id}"
        return Outcome(error=f"{where}: {error}", left=tuple(left), remarks=tuple(remarks))
    return Outcome(connected=tuple(connected), remarks=tuple(remarks))


def _raise_loopback(links: Links) -> None:
    loopback = links.find(LOOPBACK)
    if loopback is not None and not loopback.is_up:
        loopback.set_up()


def _connect_adapter(
    adapter: Adapter, link: Link, job: Connect, site: Worksite, remarks: list[str]
) -> Connected:
    if not site.in_place:
        link.set_down()
        link.move(site.namespace, site.inside)
        if link.name != adapter.interface:
            remarks.append(f"interface {adapter.interface} is {link.name} in the container")
    if adapter.encapsulation:
        link.set_mtu(link.mtu - adapter.encapsulation)
    link.set_up()
    resolv_conf = ""
    if adapter.addresses:
        for address in adapter.addresses:
            link.add_address(address)
            if adapter.table:
                site.inside.add_rule(address, adapter.table)
        added = (link.add_route(route, adapter.table) for route in adapter.routes)
        remarks.extend(remark for remark in added if remark)
    else:
        from gcs.network.dhcp import obtain_lease  # with what starts processes

        resolv_conf = obtain_lease(link.name, job.dhcp_script, job.dhcp_seconds)
    return Connected(link.name, tuple(link.addresses()), resolv_conf)


def _disconnect(job: Disconnect, site: Worksite) -> Outcome:
    left: list[str] = []
    for adapter in job.adapters:
        link = site.inside.find_again(adapter.interface, adapter.mac)
        if link is not None:
            link.mtu += adapter.encapsulation
        left += (f"network adapter {adapter.id}: {text}" for text in _release(adapter, link, site))
    return Outcome(error="; ".join(left), left=tuple(left))


def _release(adapter: Adapter, link: Link | None, site: Worksite) -> list[str]:
    """Bring an adapter back to what it was, however far it came; return what went wrong.

    Its MTU becomes that of `link`, which is ``None`` when the adapter has been unplugged.
    """
    steps: list[Callable[[], None]] = []
    if adapter.table:
        steps += (
            partial(site.inside.remove_rule, address, adapter.table)
            for address in adapter.addresses
        )
    if link is not None:
        if site.in_place:
            steps += (partial(link.remove_address, address) for address in adapter.addresses)
        steps += (
            link.set_down,
            partial(link.move_back, site.outer, site.outside),
            partial(link.set_mtu, link.mtu),
        )
    wrong = []
    for step in steps:
        try:
            step()
        except GcsError as error:
            wrong.append(str(error))
    return wrong
