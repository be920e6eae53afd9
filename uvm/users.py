"""Users by name: the agent takes numbers, so names are looked up on the host."""

import asyncio
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from uvm.errors import UvmError
from uvm.spec import User
from uvm.vm.disks import debugfs, read_file

_LINKS: Final = 8
#: How debugfs describes a file.
_KIND: Final = re.compile(r"Type: (\w+)")
_LINK: Final = re.compile(r'link dest: "([^"]+)"')


async def resolve_user(layers: Sequence[Path], text: str | None) -> User:
    """Return the user that ``NAME|UID[:GROUP|GID]`` means in a root file system.

    Args:
        layers: Images of the root file system, top-most first.
        text: What the person typed; ``None`` or empty is root.

    Raises:
        UvmError: No such name in the image's ``/etc/passwd`` or ``/etc/group``.
    """
    if not text:
        return User()
    user, _, group = text.partition(":")
    if user.isdecimal() and group.isdecimal():
        return User(int(user), int(group))
    passwd = await asyncio.to_thread(read_layered, layers, "/etc/passwd")
    groups = await asyncio.to_thread(read_layered, layers, "/etc/group")
    return find_user(text, passwd, groups)


def read_layered(layers: Sequence[Path], name: str) -> str:
    """Return the text of a file in layers, top-most first; empty when there is none."""
    for _ in range(_LINKS):
        target = None
        for image in layers:
            status = debugfs(image, f"stat {name}").decode("utf-8", "replace")
            kind = _KIND.search(status)
            if kind is None:
                continue
            if kind[1] == "regular":
                return read_file(image, name)
            # A character device is how overlayfs has what was removed.
            link = _LINK.search(status)
            target = link[1] if link and kind[1] == "symlink" else None
            break
        if target is None:
            return ""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    return ""


def find_user(text: str, passwd: str, groups: str) -> User:
    """Return the user that a text means, by the contents of two files; as :func:`resolve_user`."""
    name, _, group = text.partition(":")
    entry = _entry(passwd, name)
    if entry is None and not name.isdecimal():
        raise UvmError(f"no user {name!r} in the image's /etc/passwd")
    uid = int(name) if entry is None else int(entry[2])
    gid = 0 if entry is None else int(entry[3])
    if group:
        found = _entry(groups, group)
        if found is None and not group.isdecimal():
            raise UvmError(f"no group {group!r} in the image's /etc/group")
        return User(uid, int(group) if found is None else int(found[2]))
    login = name if entry is None else entry[0]
    additional = tuple(
        int(fields[2])
        for fields in _rows(groups)
        if len(fields) > 3 and login in fields[3].split(",") and int(fields[2]) != gid
    )
    return User(uid, gid, additional)


def _entry(text: str, name: str) -> list[str] | None:
    for fields in _rows(text):
        if fields[0] == name or (name.isdecimal() and fields[2] == name):
            return fields
    return None


def _rows(text: str) -> list[list[str]]:
    rows = (line.split(":") for line in text.splitlines())
    return [fields for fields in rows if len(fields) >= 4 and fields[2].isdecimal()]
