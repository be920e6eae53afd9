"""Networks by the command line: `--network` and `-p`, in VMs of their own and in one that stays."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.support.published import is_free, published
from tests.vm.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.vm.conftest import Uvm
    from uvm.vm.nic import PublishedPort

#: Serves /etc, so that a container says its host name to whoever asks.
WEB_SERVER = ("/usr/sbin/httpd", "-f", "-p", "80", "-h", "/etc")


def ask(port: PublishedPort, name: str = "hostname") -> str:
    url = f"http://{port.host_address}:{port.host_port}/{name}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def await_answer(port: PublishedPort, command: subprocess.Popen[bytes]) -> str:
    """Ask until there is a container that answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert command.poll() is None
        try:
            return ask(port)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.timeout(240)
def test_published_ports_of_a_run(uvm: Uvm) -> None:
    port = published()
    script = f"trap 'exit 7' TERM; {' '.join(WEB_SERVER)} & wait"
    command = uvm.spawn(
        *("run", "--hostname", "box", "-p", f"{port.host_port}:80", "--", "sh", "-c", script),
        stdout=subprocess.PIPE,
    )
    assert await_answer(port, command) == "box\n"
    assert ask(port, "resolv.conf") == "nameserver 10.0.2.3\n"
    taken = uvm("run", "-p", f"{port.host_port}:80", "--", "true")
    assert taken.returncode == 125
    assert b"another program uses it already" in taken.stderr
    command.terminate()
    output, _ = command.communicate(timeout=PATIENCE)
    assert (command.returncode, output) == (7, b"")
    assert is_free(port)
    assert uvm.leftovers() == []


def test_what_is_not_asked_for(uvm: Uvm) -> None:
    """A VM of its own has a network unless it is said that it has none."""
    script = "ip -o -4 address; cat /etc/resolv.conf"
    said = uvm("run", "--", "sh", "-c", script, check=True).stdout.decode()
    assert "10.0.2.15/24" in said
    assert "nameserver 10.0.2.3" in said
    alone = uvm("run", "--network", "none", "--", "ls", "/sys/class/net", check=True)
    assert alone.stdout == b"lo\n"


@pytest.mark.timeout(240)
def test_networks_in_a_vm_that_stays(uvm: Uvm) -> None:
    ports = [published(), published()]
    uvm("boot", "--name", "net", "--network-ports", "2", check=True)
    containers = []
    for number, port in enumerate(ports):
        options = ("--name", "net", "--detach", "--hostname", f"box{number}")
        started = uvm("run", *options, "-p", f"{port.host_port}:80", "--", *WEB_SERVER, check=True)
        containers.append(started.stdout.decode().strip())
    assert [ask(port) for port in ports] == ["box0\n", "box1\n"]
    assert str(ports[0]) in uvm("ps", check=True).stdout.decode()
    full = uvm("run", "--name", "net", "--network", "user", "--", "true")
    assert full.returncode == 125
    assert b"the VM was booted with 2" in full.stderr
    uvm("kill", "--name", "net", containers[0], check=True)
    while containers[0] in listing(uvm):
        pass
    assert is_free(ports[0])
    # There is a place for one, and not for two; then the place is still there.
    twice = uvm("run", "--name", "net", "--network", "user", "--network", "user", "--", "true")
    assert twice.returncode == 125
    once = uvm(
        "run", "--name", "net", "--network", "user,dns=192.0.2.7", "--", "cat", "/etc/resolv.conf"
    )
    assert once.stdout == b"nameserver 192.0.2.7\n", once.stderr
    assert listing(uvm) == [containers[1]]
    uvm("stop", "net", check=True)
    assert is_free(ports[1])


def listing(uvm: Uvm) -> list[str]:
    """Ids of the containers in the only VM."""
    (entry,) = json.loads(uvm("ps", "--json", check=True).stdout)
    return [container["id"] for container in entry["containers"]]
