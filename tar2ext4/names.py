"""Paths of bytes below the root of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tar2ext4.errors import EntryError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tar2ext4.inode import Inode

#: As many as Linux follows.
_MAX_SYMLINKS: Final = 40


def clean(name: bytes) -> list[bytes]:
    """Components of a path below the root, without `.` and `..`."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def look_up(root: Inode, parts: list[bytes]) -> Inode | None:
    """What is at a path; symbolic links are not followed."""
    here: Inode | None = root
    for part in parts:
        here = here.children.get(part) if here is not None else None
    return here


def follow(root: Inode, parts: list[bytes], target: Callable[[Inode], bytes]) -> list[bytes]:
    """The same path without symbolic links; they lead nowhere but to places in the image.

    Args:
        root: The image's.
        parts: Components of the path; it needs not exist.
        target: Gives the target of a symbolic link.

    Raises:
        EntryError: the links lead round in circles.
    """
    resolved: list[bytes] = []
    pending = parts[::-1]
    links = 0
    while pending:
        part = pending.pop()
        if part == b"..":
            del resolved[-1:]
            continue
        if part in (b"", b"."):
            continue
        inode = look_up(root, [*resolved, part])
        if inode is None or not inode.is_symlink:
            resolved.append(part)
            continue
        links += 1
        if links > _MAX_SYMLINKS:
            path = printable(b"/".join(parts))
            raise EntryError(f"{path}: too many symbolic links lead to it")
        there = target(inode)
        if there.startswith(b"/"):
            resolved = []
        pending += reversed(there.split(b"/"))
    return resolved
