"""/etc/hostname, /etc/hosts and /etc/resolv.conf of a pod or a container (spec 4.4, 4.6, 6.4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gcs.protocol.errors import GcsError
from gcs.runtime.bundle import Bundle
from gcs.runtime.pods.kind import Kind
from gcs.runtime.spec import add_network_files, check_hostname, hosts_file, resolv_conf

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gcs.runtime.pods.edit import Edit
    from gcs.runtime.pods.plan import ContainerPlan


class Dns(NamedTuple):
    """Name resolution.

    Attributes:
        searches: Domains to look in.
        servers: Addresses of name servers.
    """

    searches: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()


def merge_dns(adapters: Iterable[tuple[str, str]]) -> Dns:
    """Put together what the adapters of a namespace say (spec 6.4).

    Args:
        adapters: ``DNSSuffix`` and ``DNSServerList`` of each, in the order they were added.

    Returns:
        Everything in lower case, each once, in that order.
    """
    searches: dict[str, None] = {}
    servers: dict[str, None] = {}
    for suffixes, addresses in adapters:
        searches.update(dict.fromkeys(_split(suffixes)))
        servers.update(dict.fromkeys(_split(addresses)))
    return Dns(tuple(searches), tuple(servers))


def edit_network_files(edit: Edit) -> None:
    """Write the files of a sandbox or standalone container, and mount them into containers.

    A sandbox has them written for its pod and gets no mounts itself; a workload gets the mounts.

    Raises:
        GcsError: A workload has a host name, another one's is not valid, or there are too many
            search domains.
    """
    kind, directory = edit.identity.kind, edit.root.path
    if kind is Kind.WORKLOAD:
        if edit.view.hostname:
            hostname = edit.view.hostname[:300]
            raise GcsError(f"workload container must not change hostname: {hostname}")
        names = dict.fromkeys(("hostname", "hosts", "resolv.conf"), "")
        add_network_files(edit.document, edit.view, directory, names)
        return
    check_hostname(edit.view.hostname)
    hostname = edit.view.hostname or edit.guest.hostname
    if kind is Kind.SANDBOX:
        contents = _contents(hostname, edit.dns)
        files = {name: content.encode() for name, content in contents.items()}
    else:
        # Where the host mounts its own resolv.conf, ours can't have too many domains.
        dns = Dns() if _mounts_resolv_conf(edit) else edit.dns
        files = add_network_files(edit.document, edit.view, directory, _contents(hostname, dns))
    written = Bundle(directory)
    edit.undo.callback(written.undo)
    written.write(files)
    for name in files:
        os.chmod(edit.root.file(name), 0o644)


def rewrite_resolv_conf(plan: ContainerPlan, dns: Dns) -> None:
    """Write name servers and domains into the file that containers already see.

    Nothing happens where the host has mounted its own; blocking.

    Raises:
        GcsError: There are too many search domains.
        OSError: It can't be written.
    """
    content = resolv_conf(list(dns.searches), list(dns.servers)).encode()
    # In place: a new file of this name would not be the one that is mounted in containers.
    try:
        descriptor = os.open(
            plan.root.file("resolv.conf"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        )
    except FileNotFoundError:
        return
    with open(descriptor, "r+b") as file:
        if file.read() != content:
            file.seek(0)
            file.write(content)
            file.truncate()


def _contents(hostname: str, dns: Dns) -> dict[str, str]:
    return {
        "hostname": f"{hostname}\n",
        "hosts": hosts_file(hostname),
        "resolv.conf": resolv_conf(list(dns.searches), list(dns.servers)),
    }


def _mounts_resolv_conf(edit: Edit) -> bool:
    places = (mount.destination for mount in edit.view.mounts)
    return any(place and os.path.normpath(place) == "/etc/resolv.conf" for place in places)


def _split(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]
