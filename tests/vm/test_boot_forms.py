"""Every form of the kernel's command line that a host uses (spec 2.1, 7.1), two VMs at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gcs.protocol.errors import RemoteError
from tests.vm.boot_support import Boot
from uvm.vm.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

JSON = ("-v4", "-log-format", "json")
MEBIBYTE = 1024 * 1024


def machine(
    image: Path, *agent: str, init: tuple[str, ...] = ("-e", "1"), **more: object
) -> Machine:
    machine_options = {"initrd": image / "initrd-qemu.img", "init_options": init, **more}
    return Machine(kernel=image / "vmlinux", agent=agent, **machine_options)  # type: ignore[arg-type]


async def both(*tests: Coroutine[None, None, None]) -> None:
    """Run two boots; the first that fails ends both."""
    async with asyncio.TaskGroup() as group:
        for test in tests:
            group.create_task(test)


async def test_the_first_and_the_second_generation_of_hosts(image: Path, tmp_path: Path) -> None:
    await both(first_generation(image, tmp_path / "1"), second_generation(image, tmp_path / "2"))


async def first_generation(image: Path, directory: Path) -> None:
    """Writable overlays, both outputs on the log port, core files; then the agent is killed."""
    agent = ("/bin/vsockexec", "-o", "109", "-e", "109", "/bin/gcs", *JSON, "-loglevel", "debug")
    options = ("-core-dump-location", "/tmp/core.%e")
    async with Boot(machine(image, *agent, *options, init=("-e", "1", "-w")), directory) as boot:
        await boot.negotiate()
        out = await boot.shell(
            "echo x > /etc/new; grep /sys/fs/cgroup /proc/mounts; cat /proc/1/comm; "
            "grep ^Pss: /proc/1/smaps_rollup; cat /proc/sys/kernel/core_pattern; "
            "cat /sys/fs/cgroup/cgroup.subtree_control; "
            "cat /proc/[0-9]*/status | grep -c '^State:.Z'; true"
        )
        kind, name, pss, pattern, controllers, zombies = out.splitlines()
        assert kind.split()[2] == "cgroup2"
        assert name == "init"
        assert int(pss.split()[1]) * 1024 < 3 * MEBIBYTE
        assert pattern == "/tmp/core.%e"
        assert {"memory", "cpu", "pids"} <= set(controllers.split())
        assert zombies == "0"
        await core_file(boot)
        await memory_of_the_agent(boot)
        await drivers(boot)
        await kernel_messages(boot)
        await boot.logged(lambda entry: "no PTP clock" in entry["msg"])
        await boot.kill_agent(9)
        last = await boot.logged(lambda entry: entry["level"] == "fatal")
        console = await boot.ended()
    assert last["msg"] == "gcs killed by signal 9 (Killed)"
    assert last["signal"] == 9
    assert "gcs killed by signal 9 (Killed)\n" in console.replace("\r", "")
    assert "exitcode=0x00008900" in console


async def core_file(boot: Boot) -> None:
    size = await boot.shell(
        "ulimit -c unlimited; sleep 1000 & kill -11 $!; wait $!; stat -c %s /tmp/core.*"
    )
    assert int(size) > 0


async def memory_of_the_agent(boot: Boot) -> None:
    """It counts in the agent's control group from the first page that the agent has of its own."""
    out = await boot.shell(
        "sed -n 's/^Anonymous: *\\([0-9]*\\) kB/\\1/p' /proc/$PPID/smaps_rollup; "
        "cat /sys/fs/cgroup/gcs/memory.current /proc/1/cgroup /proc/$PPID/cgroup"
    )
    own, charged, init, agent = out.split()
    assert (init, agent) == ("0::/gcs", "0::/gcs")
    assert int(charged) > 0.6 * 1024 * int(own)


async def drivers(boot: Boot) -> None:
    """A host's drivers are loaded, once."""
    out = await boot.shell(
        """
        release=$(uname -r)
        mkdir -p /run/drivers/lib/modules/$release/extra
        cp /lib/modules/$release/kernel/drivers/net/dummy.ko /run/drivers/lib/modules/$release/extra
        grep -q ^dummy /proc/modules && exit 1
        install-drivers /run/installed/a /run/drivers || exit 2
        grep -o ^dummy /proc/modules
        ls /run/installed/a/content/lib/modules/$release/modules.dep
        rmmod dummy
        install-drivers /run/installed/a /run/drivers || exit 3
        grep -c ^dummy /proc/modules
        mkdir /run/none
        install-drivers /run/installed/b /run/none 2>&1 && exit 4
        ls /run/installed
        """
    )
    loaded, index, again, refused, left = out.splitlines()
    assert loaded == "dummy"
    assert index.endswith("/modules.dep")
    assert again == "0"  # known as installed
    assert "there are no kernel modules" in refused
    assert left == "a"


async def kernel_messages(boot: Boot) -> None:
    await boot.shell("echo '<3>of a test' > /dev/kmsg; echo '<6>not of interest' > /dev/kmsg")
    entry = await boot.logged(lambda entry: entry.get("message") == "of a test")
    assert entry["msg"] == "kmsg read"
    assert (entry["priority"], entry["facility"], entry["level"]) == ("Err", 1, "info")
    assert not [entry for entry in boot.entries if "not of" in str(entry.get("message"))]


async def second_generation(image: Path, directory: Path) -> None:
    """A relay for the log, whose host goes away and comes back; cgroup v1; then a crash in C."""
    agent = ("/bin/vsockexec", "-r", "-e", "109", "/bin/gcs", *JSON, "-loglevel", "info")
    options = ("-disable-time-sync", "-scrub-logs=true")
    booted = machine(image, *agent, *options, kernel_options=("hcsshim.cgroup=v1",))
    async with Boot(booted, directory) as boot:
        await boot.negotiate()
        out = await boot.shell("grep /sys/fs/cgroup /proc/mounts")
        mounts = {words[1]: words[2] for words in map(str.split, out.splitlines())}
        assert mounts["/sys/fs/cgroup"] == "tmpfs"
        assert mounts["/sys/fs/cgroup/memory"] == "cgroup"
        await boot.lose_log()
        boot.listen_for_log()
        await boot.log_connections(2)  # the relay comes back without having anything to say
        await boot.shell("true")
        await boot.logged(lambda _: bool(boot.streams[1].entries))
        await boot.kill_agent(11)
        last = await boot.logged(lambda entry: entry["level"] == "fatal")
        await boot.ended()
    assert last["signal"] == 11
    assert "Segmentation fault" in last["output"]
    assert "most recent call first" in last["output"]
    assert not [entry for entry in boot.entries if "PTP" in entry["msg"]]


async def test_a_start_script_and_a_host_without_entropy(image: Path, tmp_path: Path) -> None:
    await both(start_script(image, tmp_path / "1"), no_entropy(image, tmp_path / "2"))


async def start_script(image: Path, directory: Path) -> None:
    """PID 1 is a script, and init one of its children; the agent powers off all the same."""
    options = ("rdinit=/startup.sh",)
    async with Boot(machine(image, init=(), kernel_options=options), directory) as boot:
        await boot.negotiate()
        assert (await boot.shell("cat /proc/1/comm")).strip() == "startup.sh"
        await boot.guest.client.power_off()
        console = await boot.ended()
        await boot.logged(lambda entry: entry["msg"] == "powering off")
    assert "Kernel panic" not in console


async def no_entropy(image: Path, directory: Path) -> None:
    """Without the listener for entropy, and with a shell as the process that counts."""
    agent = ("/bin/vsockexec", "-e", "109", "/bin/gcs", *JSON, "-loglevel", "debug")
    booted = machine(image, *agent, init=("-e", "1", "-d", "/bin/sh"))
    async with Boot(booted, directory, entropy=False) as boot:
        await boot.negotiate()
        told = await boot.logged(lambda entry: "entropy" in entry.get("message", ""))
        assert "port 1" in told["message"]
        assert "sh" in (await boot.shell("ps -o ppid,comm | grep '^ *1 '")).split()
        await boot.kill_agent(9)
        last = await boot.logged(lambda entry: entry["level"] == "fatal")
        assert last["signal"] == 9
        assert boot.vm.pid  # the shell keeps it running


async def test_no_arguments_and_an_unknown_flag(image: Path, tmp_path: Path) -> None:
    await both(no_arguments(image, tmp_path / "1"), unknown_flag(image, tmp_path / "2"))


async def no_arguments(image: Path, directory: Path) -> None:
    """The agent's own defaults, under which it answers no request, and a shell."""
    async with Boot(machine(image, init=()), directory, entropy=False) as boot:
        try:
            await boot.negotiate()
        except RemoteError as error:
            refusal = error
        else:
            raise AssertionError("an agent without -v4 has negotiated")
    assert refusal.hresult == 0x80004001
    assert boot.streams == []


async def unknown_flag(image: Path, directory: Path) -> None:
    """Status 2, which ends the VM, and the reason on the log port."""
    agent = ("/bin/vsockexec", "-e", "109", "/bin/gcs", *JSON, "-bogus")
    async with Boot(machine(image, *agent), directory) as boot:
        console = await boot.ended()
        entry = await boot.logged(lambda entry: entry["level"] == "fatal")
    assert entry["msg"] == "flag provided but not defined: -bogus"
    assert "exitcode=0x00000200" in console
