"""A layer's tar archive as a directory, in the form overlayfs wants."""

import contextlib
import errno
import os
import stat
import tarfile
from pathlib import Path
from typing import IO, Final, cast

from uvm.beneath import open_beneath, open_in_root
from uvm.errors import UvmError
from uvm.image.streams import Check, HashingReader

#: How archives of layers write that something below is gone (OCI image specification, "Whiteouts").
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_RESERVED: Final = ".wh..wh."
#: How overlayfs has it.
_OPAQUE_ATTRIBUTE: Final = "trusted.overlay.opaque"
_PAX_ATTRIBUTE: Final = "SCHILY.xattr."
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY
_CHUNK: Final = 1 << 20


def unpack_layer(
    stream: "IO[bytes] | HashingReader", target: Path, what: str, check: Check
) -> None:
    """Unpack an uncompressed tar archive; nothing outside the target is touched.

    Args:
        stream: The archive.
        target: An empty directory.
        what: What to call the archive in messages.
        check: Called with every member; what it raises ends the work.

    Raises:
        UvmError: It is no archive, or one that must not be unpacked.
    """
    with contextlib.ExitStack() as undo:
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, root)
        unpacker = _Unpacker(root, what)
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
                for member in archive:
                    check()
                    unpacker.put(archive, member)
                    # tarfile remembers all members otherwise.
                    archive.members = []  # type: ignore[attr-defined]
        except tarfile.TarError as error:
            raise UvmError(f"{what} is damaged: {error}") from error
        unpacker.finish()


class _Unpacker:
    """Puts members below a directory.

    Args:
        root: Descriptor of the directory.
        what: What to call the archive in messages.
    """

    def __init__(self, root: int, what: str) -> None:
        self._root = root
        self._what = what
        #: Times of directories, set when nothing is put into them any more.
        self._times: dict[tuple[str, ...], float] = {}

    def put(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Unpack a member."""
        parts = self._parts(member.name)
        if not parts:
            if member.isdir():
                self._attributes(self._root, member)
                self._times[()] = member.mtime
            return
        with contextlib.closing(_Descriptor(self._directory(parts[:-1]))) as parent:
            name = parts[-1]
            if name == _OPAQUE:
                os.setxattr(f"/proc/self/fd/{parent.number}", _OPAQUE_ATTRIBUTE, b"y")
            elif name.startswith(_RESERVED):
                return
            elif name.startswith(_WHITEOUT):
                self._whiteout(parent.number, name.removeprefix(_WHITEOUT), member)
            else:
                self._make(parent.number, name, parts, archive, member)

    def finish(self) -> None:
        """Set the times of directories."""
        for parts, mtime in self._times.items():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path = os.fsencode("/".join(parts) or ".")
                descriptor = open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.utime(descriptor, (mtime, mtime))
                finally:
                    os.close(descriptor)

    def _parts(self, name: str) -> tuple[str, ...]:
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise UvmError(f"{self._what} must not be unpacked: {name!r} leads out of the layer")
        return parts

    def _directory(self, parts: tuple[str, ...]) -> int:
        """Open a directory, made if need be; links to directories are followed in the layer."""
        path = os.fsencode("/".join(parts) or ".")
        try:
            return open_in_root(self._root, path, _DIRECTORY)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._failed("/".join(parts), error) from error
        with contextlib.closing(_Descriptor(self._directory(parts[:-1]))) as parent:
            try:
                os.mkdir(parts[-1], 0o755, dir_fd=parent.number)
                return open_beneath(parent.number, os.fsencode(parts[-1]), _DIRECTORY)
            except OSError as error:
                raise self._failed("/".join(parts), error) from error

    def _whiteout(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        if name in ("", ".", ".."):
            raise UvmError(f"{self._what} must not be unpacked: {member.name!r} hides nothing")
        _remove(parent, name)
        os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=parent)

    def _make(
        self,
        parent: int,
        name: str,
        parts: tuple[str, ...],
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
    ) -> None:
        try:
            if member.isdir():
                self._make_directory(parent, name)
                self._times[parts] = member.mtime
            else:
                _remove(parent, name)
                self._make_other(parent, name, archive, member)
            if member.islnk():
                return
            descriptor = open_beneath(parent, os.fsencode(name), os.O_PATH | os.O_NOFOLLOW)
            with contextlib.closing(_Descriptor(descriptor)):
                self._attributes(descriptor, member)
            if not member.isdir():
                times = (member.mtime, member.mtime)
                os.utime(name, times, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise self._failed(member.name, error) from error

    def _make_directory(self, parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                _remove(parent, name)
                os.mkdir(name, 0o755, dir_fd=parent)

    def _make_other(
        self, parent: int, name: str, archive: tarfile.TarFile, member: tarfile.TarInfo
    ) -> None:
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            self._link(parent, name, member)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(
                name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent
            )
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif member.isreg():
            self._copy(parent, name, archive, member)
        else:
            kind_name = member.type.decode("ascii", "replace")
            raise UvmError(f"{self._what}: {member.name!r} is of an unknown kind, {kind_name!r}")

    def _copy(
        self, parent: int, name: str, archive: tarfile.TarFile, member: tarfile.TarInfo
    ) -> None:
        source = archive.extractfile(member)
        if source is None:
            raise UvmError(f"{self._what} is damaged: {member.name!r} has no contents")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)

    def _link(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        parts = self._parts(member.linkname.removeprefix("/"))
        if not parts:
            raise UvmError(f"{self._what} must not be unpacked: {member.name!r} links to nothing")
        with contextlib.closing(_Descriptor(self._directory(parts[:-1]))) as other:
            os.link(
                parts[-1], name, src_dir_fd=other.number, dst_dir_fd=parent, follow_symlinks=False
            )

    def _attributes(self, descriptor: int, member: tarfile.TarInfo) -> None:
        """Set owner, mode and extended attributes, in an order in which none undoes another."""
        path = f"/proc/self/fd/{descriptor}"
        os.chown(path, member.uid, member.gid)
        if not member.issym():
            os.chmod(path, stat.S_IMODE(member.mode))
        for key, value in member.pax_headers.items():
            if key.startswith(_PAX_ATTRIBUTE):
                name = key.removeprefix(_PAX_ATTRIBUTE)
                os.setxattr(path, name, value.encode("utf-8", "surrogateescape"))

    def _failed(self, name: str, error: OSError) -> UvmError:
        return UvmError(f"{self._what}: can't unpack {name!r}: {error.strerror}")


class _Descriptor:
    """A descriptor that :func:`contextlib.closing` can close."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        """Close it."""
        os.close(self.number)


def _remove(parent: int, name: str) -> None:
    """Remove what an earlier member of the same archive has put there."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        # Not a tree: that would be an archive that contradicts itself.
        os.rmdir(name, dir_fd=parent)
