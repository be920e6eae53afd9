"""Virtual machines for tests: the command line as a person uses it, and VMs that tests share.

Everything here boots the image that `make all` built. A VM takes seconds to boot, so the tests of
a module share one wherever they can.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.log_stream import RAW_LOGS, RawLogs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
#: Files that take longest, which begin first where several run at once; the others follow.
LONGEST = (
    "test_uvm_many",
    "test_network",
    "test_uvm_kept",
    "test_uvm_run",
    "test_storage_faults",
    "test_network_cli",
    "test_storage_devices",
)
#: Longest time for one command, in seconds; emulated machines on a busy host are slow.
PATIENCE = 200.0
#: Longest time for one test that says nothing of its own, in seconds.
LONGEST_TEST = 300


class Uvm:
    """The `uvm` command, with its VMs in a directory of their own.

    Args:
        runtime: Directory for the sockets of running VMs.
    """

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.started: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}

    def command(self, *arguments: str | Path) -> list[str]:
        """Return a command line."""
        return [sys.executable, "-m", "uvm", *(os.fspath(argument) for argument in arguments)]

    def __call__(
        self, *arguments: str | Path, stdin: bytes | None = None, check: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        result = subprocess.run(
            self.command(*arguments),
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=PATIENCE,
            env=self.environment,
            cwd=ROOT,
            check=False,
        )
        if check:
            assert result.returncode == 0, result.stderr.decode()
        return result

    def spawn(
        self,
        *arguments: str | Path,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command, in a process group of its own."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=self.environment,
            cwd=ROOT,
            process_group=0,
        )
        self.started.append(process)
        return process

    def leftovers(self) -> list[str]:
        """Return files and processes that belong to VMs here."""
        directory = self.runtime / "uvm"
        files = [path.name for path in directory.iterdir()] if directory.exists() else []
        return files + [" ".join(command) for _, command in self.processes()]

    def processes(self) -> list[tuple[int, list[str]]]:
        """Return processes whose command lines name the directory: QEMU, devices."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if any(str(self.runtime) in word for word in words):
                    found.append((int(entry.name), words))
        return found


class KeptVm:
    """A VM that stays, and commands on it.

    Args:
        uvm: The command.
        name: Name of the VM.
    """

    def __init__(self, uvm: Uvm, name: str) -> None:
        self.uvm = uvm
        self.name = name

    def exec(
        self, *command: str, options: Sequence[str] = (), stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a process in the VM, or with options in a container of it."""
        return self.uvm("exec", *options, self.name, "--", *command, stdin=stdin)

    def run(
        self,
        *command: str,
        options: Sequence[str] = (),
        rootfs: Sequence[Path] = (),
        stdin: bytes | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a container in the VM."""
        return self.uvm("run", "--name", self.name, *options, *rootfs, "--", *command, stdin=stdin)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, and have patience with all."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONGEST_TEST))


@pytest.fixture(scope="session", autouse=True)
def raw_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawLogs]:
    """The log streams of all VMs of this run, byte by byte."""
    directory = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RAW_LOGS, str(directory))
        yield RawLogs(directory)


@pytest.fixture(autouse=True)
def every_byte_of_the_log_is_an_entry(raw_logs: RawLogs) -> Iterator[None]:
    """The test during which something else reaches the log port fails."""
    yield
    raw_logs.check()


@pytest.fixture(scope="session")
def image() -> Path:
    """The directory with the boot files."""
    directory = Path(os.environ.get("UVM_IMAGE_DIR", ROOT / "out"))
    missing = [
        name
        for name in ("vmlinux", "initrd-qemu.img", "busybox.tar")
        if not (directory / name).is_file()
    ]
    assert not missing, f"{directory} lacks {missing}: run `make all` first"
    return directory


@pytest.fixture(scope="module")
def uvm(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uvm]:
    """The command line; nothing may be left of its VMs at the end."""
    command = Uvm(tmp_path_factory.mktemp("u"))
    yield command
    left = command.leftovers()
    for process in command.started:
        # A test that failed may have left it running.
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    for pid, _ in command.processes():
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture(scope="module")
def vm(uvm: Uvm) -> Iterator[KeptVm]:
    """A VM that the tests of a module share."""
    name = f"test-{uuid.uuid4().hex[:6]}"
    # An emulated machine on a busy host may take too long; that is no failure of a test.
    if uvm("boot", "--name", name).returncode != 0:
        uvm("boot", "--name", name, check=True)
    yield KeptVm(uvm, name)
    uvm("stop", name, check=True)
