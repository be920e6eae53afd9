"""Names of users and groups, looked up in the container's own files (spec 4.5, no. 6)."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from gcs.linux.beneath import open_in_root
from gcs.protocol.errors import GcsError, error_text
from gcs.runtime.pods.edit import section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gcs.runtime.pods.edit import Edit

T = TypeVar("T")

_LARGEST_ID: Final = (1 << 32) - 1
#: Of a file in a container, in bytes: a hostile one shall not fill the agent's memory.
_LARGEST_FILE: Final = 16 << 20
_PASSWD: Final = "etc/passwd"
_GROUP: Final = "etc/group"


class UserIds(NamedTuple):
    """Who a process is.

    Attributes:
        uid: User.
        gid: Group.
        additional_gids: The other groups that list the user as a member.
    """

    uid: int
    gid: int
    additional_gids: tuple[int, ...]


class _User(NamedTuple):
    name: str
    uid: int
    gid: int


class _Group(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


def edit_user(edit: Edit) -> None:
    """Set the ids of the process to those of the user that its ``username`` names.

    Raises:
        GcsError: Unknown user or group, or the files can't be read.
    """
    process = edit.view.process
    if process is None or not process.user.username:
        return
    found = look_up_user(edit.rootfs, process.user.username)
    user = section(edit.document, "process", "user")
    user["uid"], user["gid"] = found.uid, found.gid
    gids = list(dict.fromkeys((*process.user.additional_gids, *found.additional_gids)))
    if gids:
        user["additionalGids"] = gids


def look_up_user(rootfs: str, text: str) -> UserIds:
    """Look up ``user`` or ``user:group``; each is a name or a number.

    A number that the files don't know stands for itself, and for group 0.

    Args:
        rootfs: Root file system of the container, whose symbolic links lead nowhere else.
        text: What to look up.

    Raises:
        GcsError: A name that is not there exactly once, a number above 32 bits, another form, or
            the files can't be read.
    """
    user_text, colon, group_text = text.partition(":")
    if ":" in group_text:
        raise GcsError(f"user {text[:100]!r}: expected user or user:group")
    users = _read_users(rootfs)
    groups = _read_groups(rootfs)
    name = ""
    gid = 0
    number = _number(user_text, text)
    if number is None:
        name, uid, gid = _only(
            [user for user in users if user.name == user_text], f"user {user_text[:100]!r}"
        )
    else:
        uid = number
        for user in users:
            if user.uid == uid:
                name, _, gid = user
                break
    if colon:
        gid = _group_id(group_text, text, groups)
    others = [group.gid for group in groups if name and name in group.members]
    return UserIds(uid, gid, tuple(dict.fromkeys(other for other in others if other != gid)))


def _group_id(group_text: str, text: str, groups: list[_Group]) -> int:
    number = _number(group_text, text)
    if number is not None:
        return number
    matching = [group for group in groups if group.name == group_text]
    return _only(matching, f"group {group_text[:100]!r}").gid


def _only(found: list[T], what: str) -> T:
    if len(found) != 1:
        raise GcsError(f"{what} is in the container's files {len(found)} times, expected once")
    return found[0]


def _number(part: str, text: str) -> int | None:
    digits = part[1:] if part[:1] in ("+", "-") else part
    if not (digits.isascii() and digits.isdigit()):
        return None
    number = int(part)
    if not 0 <= number <= _LARGEST_ID:
        raise GcsError(f"user {text[:100]!r}: {number} is not a number of 32 bits")
    return number


def _read_users(rootfs: str) -> list[_User]:
    found = []
    for name, fields in _entries(rootfs, _PASSWD):
        uid, gid = _id(fields, 1), _id(fields, 2)
        if uid is not None and gid is not None:
            found.append(_User(name, uid, gid))
    return found


def _read_groups(rootfs: str) -> list[_Group]:
    found = []
    for name, fields in _entries(rootfs, _GROUP):
        gid = _id(fields, 1)
        if gid is not None:
            members = fields[2].split(",") if len(fields) > 2 else []
            found.append(_Group(name, gid, tuple(filter(None, members))))
    return found


def _entries(rootfs: str, path: str) -> Iterator[tuple[str, list[str]]]:
    for line in _read(rootfs, path).splitlines():
        name, *fields = line.strip().split(":")
        if name:
            yield name, fields


def _id(fields: list[str], index: int) -> int | None:
    """The id in a line; None when it has none, or one that no process can have."""
    text = fields[index] if index < len(fields) else ""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(_LARGEST_ID)):
        return None
    number = int(text)
    return number if number <= _LARGEST_ID else None


def _read(rootfs: str, path: str) -> str:
    """Read a file of a container; one that isn't there is empty."""
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Not to wait at a pipe that somebody has put there.
            descriptor = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return ""
            raise
        finally:
            os.close(root)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE:
                raise GcsError(f"/{path} of the container is no file, or too large")
            return file.read(_LARGEST_FILE).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise GcsError(f"/{path} of the container {rootfs}: {error_text(error)}") from error
