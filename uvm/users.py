"""Users by name: the agent takes numbers, so names are looked up on the host."""

import asyncio
from pathlib import Path

from uvm.errors import UvmError
from uvm.spec import User
from uvm.vm.disks import read_file


async def resolve_user(image: Path, text: str | None) -> User:
    """Return the user that ``NAME|UID[:GROUP|GID]`` means in a root file system.

    Args:
        image: Image with the root file system.
        text: What the person typed; ``None`` or empty is root.

    Raises:
        UvmError: No such name in the image's ``/etc/passwd`` or ``/etc/group``.
    """
    if not text:
        return User()
    user, _, group = text.partition(":")
    if user.isdecimal() and (group.isdecimal() or not group):
        return User(int(user), int(group or 0))
    passwd = await asyncio.to_thread(read_file, image, "/etc/passwd")
    groups = await asyncio.to_thread(read_file, image, "/etc/group")
    return find_user(text, passwd, groups)


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
