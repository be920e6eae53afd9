"""The mount table of a process, /proc/<pid>/mountinfo (proc(5))."""

from __future__ import annotations

import msgspec


class MountEntry(msgspec.Struct, frozen=True):
    """One line of mountinfo."""

    identifier: int
    """Unique number of the mount; reused after unmount."""
    parent: int
    """Number of the mount that this one is attached to."""
    device: str
    """`major:minor` of the file system."""
    root: str
    """Directory of the file system that forms the root of this mount."""
    target: str
    """Mount point, relative to the root directory of the process."""
    options: str
    """Options of the mount, separated by commas."""
    filesystem: str
    """Type, such as "ext4", possibly with a subtype ("fuse.sshfs")."""
    source: str
    """Device or other name given when mounting."""
    filesystem_options: str
    """Options of the file system."""
    propagation: str = ""
    """Optional fields such as "shared:2", separated by blanks; "" for a private mount."""


def unescape(field: str) -> str:
    r"""Undo the kernel's octal escapes (`\040` blank, `\011` tab, `\012` newline, `\134`)."""
    if "\\" not in field:
        return field
    first, *rest = field.split("\\")
    # Non-ASCII bytes of a path are written unescaped, so a code is always one ASCII character.
    return first + "".join(chr(int(piece[:3], 8)) + piece[3:] for piece in rest)


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Read the lines of a mountinfo file; ValueError when a line has another form."""
    entries = []
    # Only newlines end lines: the kernel leaves what else splits lines in a path as it is.
    for line in filter(None, text.split("\n")):
        left, _, right = line.partition(" - ")
        identifier, parent, device, root, target, options, *optional = left.split(" ")
        filesystem, source, filesystem_options = right.split(" ", 2)
        entries.append(
            MountEntry(
                identifier=int(identifier),
                parent=int(parent),
                device=device,
                root=unescape(root),
                target=unescape(target),
                options=options,
                filesystem=unescape(filesystem),
                source=unescape(source),
                filesystem_options=filesystem_options,
                propagation=" ".join(optional),
            )
        )
    return entries


def read_mounts(pid: int | None = None) -> list[MountEntry]:
    """The mounts that a process sees (default: this one), in the order they were made.

    Raises OSError when the file cannot be read: FileNotFoundError for a process that is gone.
    """
    path = f"/proc/{'self' if pid is None else pid}/mountinfo"
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return parse_mountinfo(file.read())
