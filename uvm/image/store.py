"""Where the files of an image are: in a tar archive, or in a directory."""

import contextlib
import gzip
import lzma
import os
import posixpath
import tarfile
from pathlib import Path
from typing import IO, Final, Protocol

from uvm.beneath import open_beneath
from uvm.errors import UvmError
from uvm.image.streams import Check, compression, decompressed

#: Files at the top that tell an archive of an image from one of a root file system.
OCI_LAYOUT: Final = "oci-layout"
OCI_INDEX: Final = "index.json"
DOCKER_MANIFEST: Final = "manifest.json"

#: ``docker save`` replaces a layer it has written already by a link to it.
_LINKS: Final = 8
_CHUNK: Final = 1 << 20


class Store(Protocol):
    """Files by their names, with ``/`` between directories.

    Attributes:
        label: What to call it in messages.
    """

    label: str

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file.

        Raises:
            UvmError: There is none.
        """
        ...

    def close(self) -> None:
        """Close the archive."""
        ...


class DirectoryStore:
    """A directory; links must not lead out of it.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        try:
            os.close(open_beneath(self._root, os.fsencode(name), os.O_PATH, follow=True))
        except OSError:
            return False
        return True

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""
        try:
            descriptor = open_beneath(
                self._root, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK, follow=True
            )
        except OSError as error:
            raise UvmError(f"{self.label}: can't read {name}: {error.strerror}") from error
        return open(descriptor, "rb")

    def close(self) -> None:
        """Close the directory."""
        os.close(self._root)


class ArchiveStore:
    """A tar archive that is not compressed.

    Args:
        path: The archive.
        label: What to call it in messages.
        check: Called between steps; what it raises ends the work.

    Raises:
        tarfile.ReadError: It is no tar archive, or is cut off.
    """

    def __init__(self, path: Path, label: str, check: Check) -> None:
        self.label = label
        self._tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed by close()
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            for member in self._tar:
                check()
                self._members[posixpath.normpath(member.name)] = member
        except BaseException:
            self._tar.close()
            raise

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return self._find(name) is not None

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""
        member = self._find(name)
        file = None if member is None else self._tar.extractfile(member)
        if file is None:
            raise UvmError(f"{self.label}: {name} is missing")
        return file

    def close(self) -> None:
        """Close the archive."""
        self._tar.close()

    def _find(self, name: str) -> tarfile.TarInfo | None:
        place = posixpath.normpath(name)
        for _ in range(_LINKS):
            member = self._members.get(place)
            if member is None or member.isreg():
                return member
            if member.issym():
                place = posixpath.normpath(
                    posixpath.join(posixpath.dirname(place), member.linkname)
                )
            elif member.islnk():
                place = posixpath.normpath(member.linkname)
            else:
                return None
        return None


def open_store(source: Path, work: Path, check: Check) -> Store | None:
    """Open what may be an image.

    Args:
        source: A directory, or a tar archive (compressed or not).
        work: An empty directory for a copy, if one is needed.
        check: Called between steps; what it raises ends the work.

    Returns:
        The image's files; ``None`` when it is something else, as a root file system.

    Raises:
        UvmError: It is an archive, and damaged.
    """
    if source.is_dir():
        directory = DirectoryStore(source)
        if directory.has(OCI_LAYOUT) and directory.has(OCI_INDEX):
            return directory
        directory.close()
        return None
    archive = source
    try:
        if compression(source) is not None:
            archive = work / "archive.tar"
            _decompress(source, archive, check)
        store = ArchiveStore(archive, str(source), check)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, lzma.LZMAError, ValueError) as error:
        if _begins_as_tar(archive):
            raise UvmError(f"{source} is damaged: {error}") from error
        return None
    if (store.has(OCI_LAYOUT) and store.has(OCI_INDEX)) or store.has(DOCKER_MANIFEST):
        return store
    store.close()
    return None


def _decompress(source: Path, target: Path, check: Check) -> None:
    with source.open("rb") as raw, decompressed(raw) as stream, target.open("wb") as copy:
        while chunk := stream.read(_CHUNK):
            check()
            copy.write(chunk)


def _begins_as_tar(archive: Path) -> bool:
    with contextlib.suppress(OSError), archive.open("rb") as file:
        return file.read(512)[257:262] == b"ustar"
    return False
