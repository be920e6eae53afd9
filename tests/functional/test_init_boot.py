"""/init as process 1 of its own namespaces: what the launched program finds, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gcs.linux.mountinfo import parse_mountinfo
from tests.functional.init_support import UNIFIED, Background, KernelLog, Machine, Port, read_all
from tests.support.reserved_signals import RESERVED_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_SCRIPT = "#!/usr/lib/gcs/bin/python3 -IS\n"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No mount of this machine changes, and nothing is handed on in a shared hierarchy."""
    control = f"{UNIFIED}/cgroup.subtree_control" if UNIFIED else os.devnull
    before = [Path(path).read_text() for path in ("/proc/self/mountinfo", control)]
    yield
    assert [Path(path).read_text() for path in ("/proc/self/mountinfo", control)] == before


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@pytest.fixture
def kernel_log() -> Iterator[KernelLog]:
    log = KernelLog()
    yield log
    log.close()


def test_program_finds_the_file_systems_of_the_specification(machine: Machine) -> None:
    result = machine.run(
        "/init", "sh", "-c", "cat /proc/self/mountinfo > /shared/m; ls -ld /run > /shared/run"
    )
    assert result.returncode == 0, result.stderr
    # what the tree was built from comes before /dev
    entries = parse_mountinfo(machine.read("m"))
    start = [entry.target for entry in entries].index("/dev")
    safe = {"nosuid", "nodev", "noexec"}
    expected = [
        ("/dev", "devtmpfs", "dev", {"nosuid", "noexec"}),
        ("/proc", "proc", "proc", safe),
        ("/run", "tmpfs", "tmpfs", safe),
        ("/tmp", "tmpfs", "tmpfs", safe),
        ("/dev/shm", "tmpfs", "shm", safe),
        ("/dev/pts", "devpts", "devpts", {"nosuid", "noexec"}),
        ("/sys", "sysfs", "sysfs", safe),
    ]
    found = [
        (entry.target, entry.filesystem, entry.source, set(entry.options.split(",")) & safe)
        for entry in entries[start:]
        if not entry.target.startswith("/sys/fs/cgroup")
    ]
    assert found == expected
    assert any(entry.target == "/sys/fs/cgroup" for entry in entries)
    assert machine.read("run").startswith("drwxr-xr-x")


def test_program_gets_a_clean_environment_session_and_signals(machine: Machine) -> None:
    script = """
        env > /shared/env
        for i in fd stdin stdout stderr; do readlink /dev/$i; done > /shared/links
        grep ^Sig /proc/self/status > /shared/signals
        ls /proc/self/fd > /shared/descriptors
        cat /proc/self/stat /proc/1/comm > /shared/stat
        ulimit -S -n > /shared/limit
        ip addr show lo > /shared/lo
    """
    result = machine.run("/init", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    environment = dict(line.split("=", 1) for line in machine.read("env").splitlines())
    for own in ("PWD", "SHLVL", "OLDPWD", "_"):  # set by the shell itself
        environment.pop(own, None)
    assert environment == {"PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}
    assert machine.read("links").split() == [
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
    ]
    signals = dict(line.split(":\t") for line in machine.read("signals").splitlines())
    assert int(signals["SigBlk"], 16) == 0
    assert int(signals["SigIgn"], 16) & ~RESERVED_SIGNALS == 0
    assert machine.read("descriptors").split() == ["0", "1", "2", "3"]  # 3: the directory itself
    stat, name = machine.read("stat").splitlines()
    _, _, _, parent, group, session, *_ = stat.split()
    assert group == session == parent
    assert name == "init"
    assert machine.read("limit") == "1024\n"
    assert "UP" in machine.read("lo")
    assert "127.0.0.1/8" in machine.read("lo")


@pytest.mark.parametrize(
    ("script", "status", "report"),
    [
        ("exit 0", 0, None),
        ("exit 7", 7, "sh exited with status 7"),
        ("kill -9 $$", 128 + signal.SIGKILL, "sh killed by signal 9 (Killed)"),
    ],
)
def test_status_of_the_program_becomes_that_of_init(
    machine: Machine, kernel_log: KernelLog, script: str, status: int, report: str | None
) -> None:
    result = machine.run("/init", "sh", "-c", script)
    assert result.returncode == status
    assert result.stderr == (f"{report}\n" if report else "")
    assert report is None or (3, f"init: {report}") in kernel_log.messages()


def test_orphans_are_reaped_while_the_program_runs(machine: Machine) -> None:
    # The orphans end before the program looks for what is left of them.
    script = """
        for i in 1 2 3 4 5; do (sh -c 'exit 3' & ) ; done
        (sh -c 'kill -9 $$' &)
        left=1
        while [ "$left" != 0 ]; do left=$(grep -l '^PPid:.1$' /proc/[0-9]*/status \
            | grep -v "/$$/" | grep -c .); done
        ps -o pid,ppid,stat,comm > /shared/ps
    """
    result = machine.run("/init", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    assert " Z" not in machine.read("ps")


def test_shell_takes_the_place_of_the_program(machine: Machine) -> None:
    """The form with a console: `sh -c "<command> & exec sh"`."""
    machine.install("/bin/agent", "#!/bin/sh\ntr -d '\\n' < /proc/1/comm > /shared/agent\n")
    script = "/bin/agent & exec sh"
    process = subprocess.run(
        machine.command("/init", "sh", "-c", script),
        input="wait\nwhile [ ! -s /shared/agent ]; do :; done\nexit 9\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 9
    assert machine.read("agent") == "init"


def test_debug_shell_counts_and_the_command_runs_beside_it(machine: Machine) -> None:
    machine.install("/bin/shell", "#!/bin/sh\nwhile [ ! -e /shared/c ]; do :; done\nexit 4\n")
    machine.install("/bin/prog", "#!/bin/sh\n> /shared/c\nexit 5\n")
    assert machine.run("/init", "-d", "/bin/shell", "/bin/prog").returncode == 4


def test_without_arguments_agent_and_shell(machine: Machine) -> None:
    machine.install(
        "/bin/gcs",
        '#!/bin/sh\n> /run/gcs/gcs.log && echo "$@" > /shared/gcs.new\n'
        "mv /shared/gcs.new /shared/gcs\n",
    )
    result = subprocess.run(
        machine.command("/init"),
        input="while [ ! -s /shared/gcs ]; do :; done\nexit 6\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 6
    assert machine.read("gcs") == "-loglevel debug -logfile=/run/gcs/gcs.log\n"


def test_services_are_started_where_they_exist(machine: Machine, kernel_log: KernelLog) -> None:
    machine.install("/bin/nv-fabricmanager", '#!/bin/sh\necho "$@" > /shared/fm\n')
    script = "while [ ! -s /shared/fm ]; do :; done"
    assert machine.run("/init", "sh", "-c", script).returncode == 0
    assert machine.read("fm") == "-c /usr/share/nvidia/nvswitch/fabricmanager.cfg\n"
    assert (6, "init: starting /bin/nv-fabricmanager") in kernel_log.messages()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-x", "true"], "init: unknown option -x\n"),
        (["-e", "0", "true"], "init: invalid port '0'\n"),
        (["-e"], "init: option -e needs a value\n"),
        (["-w"], "init: no command to run\n"),
    ],
)
def test_wrong_command_line(machine: Machine, arguments: list[str], message: str) -> None:
    result = machine.run("/init", *arguments)
    assert (result.returncode, result.stderr) == (1, message)


def test_program_that_does_not_exist(machine: Machine, kernel_log: KernelLog) -> None:
    result = machine.run("/init", "nonsense")
    assert result.returncode == 2  # ENOENT
    report = "init: nonsense: exec: No such file or directory"
    assert report in result.stderr.splitlines()
    assert (3, report) in kernel_log.messages()


def test_start_without_standard_descriptors(machine: Machine) -> None:
    """The kernel opens none when there is no console."""
    machine.install("/start", '#!/bin/sh\nexec /init "$@" 0<&- 1>&- 2>&-\n')
    machine.install(
        "/bin/gcs",
        OWN_SCRIPT + "import os, sys\n"
        "print('lost'); print('lost', file=sys.stderr); assert sys.stdin.read() == ''\n"
        "with open('/shared/fds', 'w') as file:\n"
        "    for number in range(3):\n"
        "        print(os.readlink(f'/proc/self/fd/{number}'), file=file)\n",
    )
    result = machine.run("/start", "/bin/gcs")
    assert result.returncode == 0
    assert machine.read("fds").split() == ["/dev/null", "/dev/null", "/dev/null"]


def test_writable_overlays_leave_the_original_alone(machine: Machine) -> None:
    machine.install("/etc/original", "#!/bin/sh\n")
    script = """
        ls /etc > /shared/before
        echo new > /etc/new && echo changed > /etc/original && echo new > /var/new
        ls /run/over/etc/upper /run/over/var/upper > /shared/upper
        grep -E ' /(etc|var|run/over) ' /proc/mounts > /shared/mounts
    """
    result = machine.run("/init", "-w", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    assert machine.read("before") == "original\n"
    assert machine.read("upper").split() == [
        "/run/over/etc/upper:",
        "new",
        "original",
        "/run/over/var/upper:",
        "new",
    ]
    mounts = {line.split()[1]: line for line in machine.read("mounts").splitlines()}
    assert "noexec" in mounts["/etc"]
    assert "nosuid,nodev" in mounts["/var"]
    assert "noexec" not in mounts["/var"]
    assert "size=" in mounts["/run/over"]


def test_entropy_is_read_to_the_end_before_the_program_starts(
    machine: Machine, kernel_log: KernelLog
) -> None:
    port = Port(machine.shared / "port", 4321)

    def host() -> tuple[bytes, bool]:
        with port.accept() as connection:
            connection.sendall(os.urandom(512))
            started = (machine.shared / "started").exists()
            connection.shutdown(1)
            return read_all(connection), started

    background = Background(host)
    result = machine.run(
        "/init", "-t", "unix:/shared/port", "-e", "4321", "sh", "-c", "> /shared/started"
    )
    port.close()
    assert result.returncode == 0, result.stderr
    assert background.finish() == (b"", False)
    assert (machine.shared / "started").exists()
    assert not [text for _, text in kernel_log.messages() if "port 4321" in text]


def test_missing_entropy_is_a_warning(machine: Machine, kernel_log: KernelLog) -> None:
    result = machine.run("/init", "-t", "unix:/shared/port", "-e", "1", "true")
    assert result.returncode == 0, result.stderr
    warnings = [text for priority, text in kernel_log.messages() if priority == 4]
    assert any("entropy" in text and "port 1" in text for text in warnings)


def test_init_vsockexec_and_agent_are_one_process(machine: Machine, kernel_log: KernelLog) -> None:
    machine.install(
        "/bin/gcs",
        OWN_SCRIPT + "import os, sys\n"
        "print(sys.argv, dict(os.environ), os.getppid(), __name__, file=sys.stderr)\n"
        "print(open('/proc/self/comm').read().strip(), file=sys.stderr)\n"
        "print(os.listdir('/proc/self/fd'), file=sys.stderr)\n"
        "print(open('/proc/self/cmdline').read().split('\\0')[2], file=sys.stderr)\n"
        "sys.exit(3)\n",
    )
    port = Port(machine.shared / "port", 109)

    def host() -> str:
        with port.accept() as connection:
            return read_all(connection).decode()

    background = Background(host)
    transport = ("-t", "unix:/shared/port")
    result = machine.run("/init", "/bin/vsockexec", *transport, "-e", "109", "/bin/gcs", "-v4")
    port.close()
    assert result.returncode == 3
    assert result.stderr == "gcs exited with status 3\n"
    assert str(background.finish()).splitlines() == [
        "['/bin/gcs', '-v4'] {'PATH': '/sbin:/usr/sbin:/bin:/usr/bin'} 1 __main__",
        "gcs",
        "['0', '1', '2', '3', '4']",  # 3: to its supervisor, 4: the directory
        "/init",  # never executed anew
    ]
    assert (3, "init: gcs exited with status 3") in kernel_log.messages()


def test_relay_between_agent_and_a_host_that_comes_late(machine: Machine) -> None:
    machine.install(
        "/bin/gcs",
        OWN_SCRIPT + "import os, sys\n"
        "print(dict(os.environ), os.getppid(), file=sys.stderr)\n"
        "open('/shared/ready', 'w').close()\n"
        "os.kill(os.getpid(), 9)\n",
    )
    os.mkfifo(machine.shared / "ready")

    def host() -> str:
        with open(machine.shared / "ready"):
            port = Port(machine.shared / "port", 109)
        with port.accept() as connection:
            text = read_all(connection).decode()
        port.close()
        return text

    background = Background(host)
    transport = ("-t", "unix:/shared/port")
    result = machine.run("/init", "/bin/vsockexec", *transport, "-r", "-e", "109", "/bin/gcs")
    assert result.returncode == 137
    assert result.stderr == "vsockexec exited with status 137\n"
    environment, parent = str(background.finish()).rsplit(" ", 1)
    assert environment == "{'PATH': '/sbin:/usr/sbin:/bin:/usr/bin'}"
    assert int(parent) > 1


def test_traceback_of_an_agent_ends_with_its_status(machine: Machine) -> None:
    machine.install("/bin/gcs", OWN_SCRIPT + "raise OSError(5, 'broken')\n")
    result = machine.run("/init", "/bin/gcs")
    assert result.returncode == 1
    assert "broken" in result.stderr
    assert result.stderr.endswith("gcs exited with status 1\n")


def group_line(text: str) -> str:
    """The line of version 2 in what /proc/<pid>/cgroup said."""
    (line,) = [line for line in text.splitlines() if line.startswith("0::")]
    return line


def test_agent_and_init_are_in_the_agents_group_from_the_start(machine: Machine) -> None:
    """The shell is not: its memory is none of the agent's."""
    machine.install(
        "/bin/gcs",
        OWN_SCRIPT + "import shutil\n"
        "for source in ('self', '1'):\n"
        "    shutil.copy(f'/proc/{source}/cgroup', f'/shared/of-{source}')\n"
        "open('/shared/done', 'w').close()\n",
    )
    machine.install("/bin/shell", "#!/bin/sh\nread line < /shared/done\ncat /proc/self/cgroup\n")
    os.mkfifo(machine.shared / "done")
    result = machine.run("/init", "-d", "/bin/shell", "/bin/gcs")
    assert result.returncode == 0, result.stderr
    assert group_line(machine.read("of-self")) == "0::/gcs"
    assert group_line(machine.read("of-1")) == "0::/gcs"
    assert group_line(result.stdout) == "0::/"


def test_other_programs_are_not_in_the_agents_group(machine: Machine) -> None:
    result = machine.run("/init", "sh", "-c", "cat /proc/self/cgroup")
    assert group_line(result.stdout) == "0::/"
