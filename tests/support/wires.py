"""Network namespaces and virtual wires (veth) between them, for tests; all of it needs root."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

_numbers = itertools.count()


def run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode()
    assert done.returncode == 0, f"{' '.join(command)}: {output}"
    return output


class NetworkNamespace:
    """A named network namespace, deleted with everything in it at the end."""

    def __init__(self) -> None:
        self.name = f"gcsnet{os.getpid()}x{next(_numbers)}"
        self.path = f"/run/netns/{self.name}"
        self.inside = ["nsenter", f"--net={self.path}"]

    def __enter__(self) -> Self:
        run("ip", "netns", "add", self.name)
        return self

    def __exit__(self, *_: object) -> None:
        run("ip", "netns", "del", self.name)

    def ip(self, *arguments: str) -> None:
        run(*self.inside, "ip", *arguments)

    def show(self, *arguments: str) -> list[dict[str, Any]]:
        """What `ip` shows."""
        shown: list[dict[str, Any]] = json.loads(
            run(*self.inside, "ip", "-json", *arguments) or "[]"
        )
        return [entry for entry in shown if entry]

    def links(self) -> dict[str, dict[str, Any]]:
        """Links by name, without the loopback."""
        found = {entry["ifname"]: entry for entry in self.show("-details", "link")}
        found.pop("lo")
        return found

    def addresses(self, link: str, *, of_link: bool = False) -> set[str]:
        """Addresses of a link; those that IPv6 makes by itself only when asked for."""
        entries = self.show("address", "show", "dev", link)[0]["addr_info"]
        return {
            f"{entry['local']}/{entry['prefixlen']}"
            for entry in entries
            if of_link or entry["scope"] != "link"
        }

    def routes(self, version: int, table: str = "main") -> set[tuple[str, str, int]]:
        """Destination, gateway or "", and metric of the routes that somebody added."""
        shown = self.show(f"-{version}", "route", "show", "table", table)
        return {
            (route["dst"], route.get("gateway", ""), route.get("metric", 0))
            for route in shown
            if route.get("protocol") != "kernel"
        }

    def rules(self, version: int) -> list[tuple[int, str, str]]:
        """Priority, source and table of the rules that somebody added."""
        shown = self.show(f"-{version}", "rule")
        return [
            (rule["priority"], rule["src"], rule["table"])
            for rule in shown
            if rule["table"] not in ("local", "main", "default")
        ]


class Wire:
    """A wire between two namespaces; the first of them is that of the test when it is None.

    Both ends go when one of their namespaces does.
    """

    def __init__(
        self, near: NetworkNamespace | None, far: NetworkNamespace, name: str = "", mac: str = ""
    ) -> None:
        number = next(_numbers)
        self.near = near
        self.far = far
        self.name = name or f"gv{os.getpid()}x{number}"[:15]
        self.far_name = f"far{number}"
        self.mac = (
            mac or f"02:{os.getpid() & 0xFF:02x}:{os.getpid() >> 8 & 0xFF:02x}:00:00:{number:02x}"
        )
        self._inside = near.inside if near is not None else []
        run(
            *self._inside, "ip", "link", "add", self.name, "address", self.mac, "type", "veth",
            "peer", "name", self.far_name, "netns", far.name,
        )  # fmt: skip
        far.ip("link", "set", self.far_name, "up")

    def is_near(self) -> bool:
        """Whether the near end is in its namespace (again)."""
        if self.near is not None:
            return self.name in self.near.links()
        try:
            return Path(f"/sys/class/net/{self.name}/address").read_text().strip() == self.mac
        except FileNotFoundError:
            return False
