"""A file tree held in memory: what goes into an archive, before it is written.

Nothing is unpacked to disk on the way, so no archive member can reach outside the build's output,
and device nodes and owners need no privileges.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.image.origin import Origin

_MAX_SYMLINKS = 40
"""Symbolic links followed in one path before it counts as a loop, as in the kernel."""

_SHARED_SIZE = 65536
"""Bytes from which equal files become hard links; below, it is not worth a surprise."""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes of a file on disk, read only when the archive is written."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes; raise BuildError when the file has become shorter."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise BuildError(f"{self.path}: changed while it was being read")
        return data


@dataclass(eq=False, slots=True)
class Node:
    """One file of a tree. Two paths with the same node are hard links of each other."""

    mode: int
    """Type and permission bits, as in st_mode."""
    content: bytes | FileSlice = b""
    target: str = ""
    """Where a symbolic link points."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""
    origin: Origin | None = None
    """Where a regular file comes from, once that is known."""

    @property
    def size(self) -> int:
        """Length of what the archive stores for this node, in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size

    def read(self) -> bytes:
        """Return the content."""
        return self.content if isinstance(self.content, bytes) else self.content.read()


def directory(mode: int = 0o755) -> Node:
    """Return a directory node."""
    return Node(stat.S_IFDIR | mode)


def symlink(target: str) -> Node:
    """Return a symbolic link node."""
    return Node(stat.S_IFLNK | 0o777, target=target)


def regular(content: bytes | FileSlice, mode: int = 0o644, *, origin: Origin | None = None) -> Node:
    """Return a regular file node."""
    return Node(stat.S_IFREG | mode, content=content, origin=origin)


def character_device(major: int, minor: int, mode: int) -> Node:
    """Return a character device node."""
    return Node(stat.S_IFCHR | mode, device=(major, minor))


def file_on_disk(path: Path, mode: int | None = None) -> Node:
    """Return a node for a regular file on disk, following symbolic links."""
    status = path.stat()
    slice_ = FileSlice(path, 0, status.st_size)
    return regular(slice_, stat.S_IMODE(status.st_mode) if mode is None else mode)


def member_path(name: str) -> str:
    """Check an archive member's name and return it without leading `./` and trailing `/`.

    The root directory itself becomes the empty string.

    Raises:
        BuildError: the name is absolute or has a `..` component.
    """
    if name.startswith("/"):
        raise BuildError(f"absolute member name {name!r}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BuildError(f"member name {name!r} leads out of the archive")
    return "/".join(parts)


def mode_for_root(mode: int, uid: int, gid: int) -> int:
    """Return the mode a file has once root owns it.

    Everything in the image belongs to 0:0, so a set-id bit of another owner's file would hand
    out rights it never gave; it is dropped.
    """
    if uid:
        mode &= ~stat.S_ISUID
    if gid:
        mode &= ~stat.S_ISGID
    return mode


@dataclass(slots=True)
class Tree:
    """Paths (relative, `/`-separated) to nodes. The root directory is the path ``""``."""

    nodes: dict[str, Node] = field(default_factory=lambda: {"": directory()})
    stripped: list[str] = field(default_factory=list)
    """Files whose set-id bits were dropped when they were read (see `mode_for_root`)."""

    def __contains__(self, path: str) -> bool:
        return path in self.nodes

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        """Yield every path but the root with its node, parents first, in a fixed order."""
        for path in sorted(self.nodes, key=lambda path: path.split("/")):
            if path:
                yield path, self.nodes[path]

    def put(self, path: str, node: Node) -> None:
        """Place a node, following symbolic links in the directory part.

        A directory put where a directory, or a link to one, stands leaves what is there. Missing
        parents are made.

        Raises:
            BuildError: a parent is no directory, or a file would replace a directory.
        """
        parent, _, name = path.rpartition("/")
        place = self._make_directory(parent)
        where = f"{place}/{name}" if place else name
        old = self.nodes.get(where)
        if stat.S_ISDIR(node.mode):
            if not where:
                old = None
            elif old is not None and self._leads_to_directory(where):
                return
            elif old is not None and not stat.S_ISDIR(old.mode):
                raise BuildError(f"/{path}: a directory would replace a file that is no directory")
        elif old is not None and stat.S_ISDIR(old.mode):
            raise BuildError(f"/{path}: a file would replace a directory")
        self.nodes[where] = node

    def need_directory(self, path: str) -> None:
        """Make a directory unless it, or a link to one, is there."""
        if not self._leads_to_directory(path):
            self.put(path, directory())

    def link(self, path: str, target: str) -> None:
        """Make path a hard link to target; raise BuildError when target is not in the tree."""
        node = self.nodes.get(self.resolve(target) if target not in self.nodes else target)
        if node is None or stat.S_ISDIR(node.mode):
            raise BuildError(f"/{path}: hard link to /{target}, which is no file of the archive")
        self.put(path, node)

    def merge(self, other: Tree) -> None:
        """Lay another tree over this one."""
        for path, node in other:
            self.put(path, node)

    def relocate(self, other: Tree) -> Tree:
        """Return another tree with its files where symbolic links of this one lead to.

        Unpacked over this one, its directories would replace such links.
        """
        moved = Tree()
        for path, node in other:
            moved.nodes[self.resolve(path)] = node
        return moved

    def share_equal_files(self) -> None:
        """Make hard links of regular files with the same content and mode.

        A base from Debian has the C library that the prefix has, too.
        """
        seen: dict[tuple[int, str], Node] = {}
        for path, node in self:
            if stat.S_ISREG(node.mode) and node.size >= _SHARED_SIZE:
                key = (node.mode, hashlib.sha256(node.read()).hexdigest())
                self.nodes[path] = seen.setdefault(key, node)

    def add_disk_tree(self, root: Path, below: str = "") -> None:
        """Add everything below a directory on disk, under the path `below`.

        Of the permissions only "executable" is taken over, so the umask of a checkout is not seen.
        """
        for folder, folders, files in os.walk(root):
            for name in sorted((*folders, *files)):
                path = Path(folder, name)
                relative = path.relative_to(root).as_posix()
                self.put(f"{below}/{relative}" if below else relative, _node_of(path))

    def _leads_to_directory(self, path: str) -> bool:
        node = self.nodes.get(self.resolve(path))
        return node is not None and stat.S_ISDIR(node.mode)

    def _make_directory(self, path: str) -> str:
        resolved = self.resolve(path)
        built = ""
        for part in resolved.split("/") if resolved else ():
            built = f"{built}/{part}" if built else part
            node = self.nodes.setdefault(built, directory())
            if not stat.S_ISDIR(node.mode):
                raise BuildError(f"/{built}: is no directory, but a parent of /{path}")
        return resolved

    def resolve(self, path: str) -> str:
        """Follow the symbolic links in a path; parts that do not exist stay as they are.

        Raises:
            BuildError: the links go round in a circle.
        """
        pending = path.split("/")[::-1]
        done: list[str] = []
        followed = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            node = self.nodes.get("/".join((*done, part)))
            if node is None or not stat.S_ISLNK(node.mode):
                done.append(part)
                continue
            followed += 1
            if followed > _MAX_SYMLINKS:
                raise BuildError(f"/{path}: too many levels of symbolic links")
            if node.target.startswith("/"):
                done.clear()
            pending.extend(node.target.split("/")[::-1])
        return "/".join(done)


def _node_of(path: Path) -> Node:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return symlink(str(path.readlink()))
    if stat.S_ISREG(status.st_mode):
        return file_on_disk(path, 0o755 if status.st_mode & 0o111 else 0o644)
    if stat.S_ISDIR(status.st_mode):
        return directory()
    raise BuildError(f"{path}: is neither a file, a directory nor a symbolic link")
