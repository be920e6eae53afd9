"""System calls that change the file tree, behind an interface.

Code that mounts takes a `Syscalls` argument, so that a test can pass a double which records the
calls, or fails at the n-th one, and needs no privileges.  `Syscalls` exists for type checkers only:
`typing.Protocol` would cost PID 1 several milliseconds.
"""

from __future__ import annotations

import os

from gcs.linux import mount as _mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Syscalls(Protocol):
        """What `Linux` does, and what a recording double pretends to do."""

        def mount(
            self, source: str, target: str, filesystem: str, flags: int = 0, data: str = ""
        ) -> None:
            """See `gcs.linux.mount.mount`."""

        def unmount(self, target: str, flags: int = 0) -> None:
            """See `gcs.linux.mount.unmount`."""

        def make_directory(self, path: str, mode: int = 0o755) -> None:
            """Make one directory; FileExistsError when something is there."""

        def make_symlink(self, path: str, target: str) -> None:
            """Make `path` a symbolic link to `target`; FileExistsError when something is there."""


class Linux:
    """The kernel's own."""

    def mount(
        self, source: str, target: str, filesystem: str, flags: int = 0, data: str = ""
    ) -> None:
        """See `gcs.linux.mount.mount`."""
        _mount.mount(source, target, filesystem, flags, data)

    def unmount(self, target: str, flags: int = 0) -> None:
        """See `gcs.linux.mount.unmount`."""
        _mount.unmount(target, flags)

    def make_directory(self, path: str, mode: int = 0o755) -> None:
        """Make one directory with exactly this mode, the umask aside."""
        os.mkdir(path, mode)
        os.chmod(path, mode)

    def make_symlink(self, path: str, target: str) -> None:
        """Make `path` a symbolic link to `target`."""
        os.symlink(target, path)
