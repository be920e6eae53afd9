"""Mounting step by step: fsopen(2), fsconfig(2), fsmount(2), move_mount(2).

Unlike mount(2), options are given one at a time, so their total length has no limit, and the kernel
says in words what it did not like.
"""

from __future__ import annotations

import os

from gcs.linux.libc import call, naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# Numbers of syscall(2); the same on all machines since Linux 5.2.
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432

# linux/mount.h
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
MOUNT_ATTR_RDONLY = 1

#: Longest value of one option, in bytes.
MAX_VALUE = 255


class FilesystemContext:
    """A file system being configured; a context manager that closes its descriptor.

    filesystem: type, for example "overlay".

    Raises OSError: ENOSYS before Linux 5.2, ENODEV when the kernel does not know the type.
    """

    def __init__(self, filesystem: str) -> None:
        self._filesystem = filesystem
        try:
            self._descriptor = call(
                "syscall", _SYS_FSOPEN, os.fsencode(filesystem), _FSOPEN_CLOEXEC
            )
        except OSError as error:
            raise naming(error, "fsopen", filesystem) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def set_option(self, key: str, value: str | None = None) -> None:
        """Set an option with a value of at most MAX_VALUE bytes, or one without a value.

        Raises OSError with the option and the kernel's explanation: EINVAL for an unknown option or
        a value too long, ENOENT for a path that does not exist.
        """
        command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
        data = None if value is None else os.fsencode(value)
        self._configure(command, key, data)

    def mount(self, target: str, *, read_only: bool = False) -> None:
        """Create the file system and attach it at `target`, an existing directory.

        Raises OSError with the target and the kernel's explanation.
        """
        if read_only:
            self.set_option("ro")
        self._configure(_FSCONFIG_CMD_CREATE, "", None, target)
        attributes = MOUNT_ATTR_RDONLY if read_only else 0
        try:
            tree = call("syscall", _SYS_FSMOUNT, self._descriptor, _FSMOUNT_CLOEXEC, attributes)
        except OSError as error:
            raise self._explained(error, f"fsmount {self._filesystem}", target) from None
        try:
            call(
                "syscall",
                _SYS_MOVE_MOUNT,
                tree,
                b"",
                _AT_FDCWD,
                os.fsencode(target),
                _MOVE_MOUNT_F_EMPTY_PATH,
            )
        except OSError as error:
            raise naming(error, f"move_mount {self._filesystem}", target) from None
        finally:
            os.close(tree)

    def messages(self) -> str:
        """What the kernel said since the last call; "" when nothing."""
        found: list[str] = []
        while True:
            try:
                line = os.read(self._descriptor, 4096)
            except OSError:  # ENODATA: no more; others say nothing more useful than the cause
                return "; ".join(found)
            # A letter for the severity and a blank come first.
            found.append(line.decode("utf-8", "replace").rstrip("\n")[2:])

    def _configure(self, command: int, key: str, value: bytes | None, path: str = "") -> None:
        name = os.fsencode(key) if key else None
        try:
            call("syscall", _SYS_FSCONFIG, self._descriptor, command, name, value, 0)
        except OSError as error:
            what = f"mount {self._filesystem}"
            if key:
                what += f", option {key}"
            raise self._explained(error, what, path or os.fsdecode(value or b"")) from None

    def _explained(self, error: OSError, action: str, path: str) -> OSError:
        said = self.messages()
        return naming(error, f"{action} ({said})" if said else action, path)
