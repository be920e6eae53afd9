"""A small machine without a kernel of its own: /init as process 1 of new namespaces.

The tree is a tmpfs in a mount namespace that ends with the process, so that nothing is left.  The
scripts of `rootfs/` are used as they are, with this machine's interpreter under the image's path.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

from scripts.image.native import compile_reaper

REPOSITORY = Path(__file__).resolve().parents[2]

_BUILD_TREE = r"""
set -e
root=$1 repository=$2 shared=$3
shift 3
mount -t tmpfs -o mode=0755 root "$root"
cd "$root"
mkdir -p bin sbin lib64 etc var dev proc run sys tmp shared \
    usr/lib/x86_64-linux-gnu usr/lib/python3.11 usr/lib/gcs/bin usr/lib/gcs/lib/python3.11/gcs
mount --bind /lib64 lib64
mount --bind /usr/lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu
mount --bind /usr/lib/python3.11 usr/lib/python3.11
mount --bind "$shared" shared
ln -s usr/lib lib
ln -s /usr/lib/python3.11/* usr/lib/gcs/lib/python3.11/
cp /usr/bin/python3.11 usr/lib/gcs/bin/python3
mount --bind -o ro "$repository/gcs" usr/lib/gcs/lib/python3.11/gcs
cp "$shared/../reaper" usr/lib/gcs/bin/init
cp /bin/busybox bin/busybox
for name in sh cat ls env sleep grep mount readlink kill ip id stat ps tr true; do
    ln -s busybox bin/$name
done
cp "$repository/rootfs/init" init
cp "$repository/rootfs/bin/vsockexec" bin/vsockexec
if [ -d "$shared/overlay" ]; then cp -a "$shared/overlay/." .; fi
exec chroot . "$@"
"""


#: Where version 2 of control groups is mounted: beside version 1, or alone.
UNIFIED = next(
    (
        path
        for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
        if os.path.exists(f"{path}/cgroup.procs")
    ),
    "",
)


_ENTER = 'group=$1; shift; [ -z "$group" ] || echo 0 > "$group/cgroup.procs"; exec "$@"'


class Machine:
    """Runs commands as the kernel would run /init; `/shared` inside is `shared` outside.

    The root of its control groups is a group of its own, gone with `close`.
    """

    def __init__(self, directory: Path) -> None:
        self.group = f"{UNIFIED}/gcstest{os.getpid()}{directory.name}" if UNIFIED else ""
        if self.group:
            os.mkdir(self.group)
        self.shared = directory / "shared"
        self._root = directory / "root"
        self.shared.mkdir()
        self._root.mkdir()
        compile_reaper(REPOSITORY, directory / "reaper")

    def close(self) -> None:
        """Remove what machines have left of control groups."""
        if self.group:
            for path, _, _ in os.walk(self.group, topdown=False):
                os.rmdir(path)

    def install(self, path: str, text: str) -> None:
        """Put an executable script into the tree."""
        file = self.shared / "overlay" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def command(self, *arguments: str) -> list[str]:
        """The command line that starts process 1 as `arguments`."""
        namespaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup")
        return [
            *("sh", "-c", _ENTER, "enter", self.group),
            *("unshare", *namespaces, "--fork", "--kill-child"),
            *("sh", "-c", _BUILD_TREE, "tree", str(self._root), str(REPOSITORY), str(self.shared)),
            *arguments,
        ]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Boot, wait for the end; the result has the exit status of process 1."""
        return subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"HOME": "/", "TERM": "linux", "PATH": os.environ["PATH"]},
        )

    def read(self, name: str) -> str:
        """Contents of a file that the machine left in /shared."""
        return (self.shared / name).read_text()


class KernelLog:
    """What is written to the kernel log from now on."""

    def __init__(self) -> None:
        self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def messages(self) -> list[tuple[int, str]]:
        """(priority, text) of each message since the last call."""
        found: list[tuple[int, str]] = []
        while True:
            try:
                record = os.read(self._descriptor, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            fields, _, text = record.partition(";")
            found.append((int(fields.split(",")[0]) & 7, text.split("\n", 1)[0]))

    def close(self) -> None:
        os.close(self._descriptor)


class Port:
    """The host's side of one port: a listening unix socket `<prefix>_<number>`."""

    def __init__(self, prefix: Path, number: int) -> None:
        self.path = f"{prefix}_{number}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(30)
        self.listener.bind(self.path)
        self.listener.listen()

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(30)
        return connection

    def close(self) -> None:
        self.listener.close()
        os.unlink(self.path)


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


class Background(threading.Thread):
    """Runs a host's part beside the machine; `finish` returns its result or raises its error."""

    def __init__(self, work: object) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._result: object = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._error = error

    def finish(self) -> object:
        self.join(60)
        if self._error is not None:
            raise self._error
        return self._result
