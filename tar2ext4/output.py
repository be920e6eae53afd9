"""The file an image goes to: written mostly from front to back, in large pieces, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from typing import TYPE_CHECKING, Final

from tar2ext4.errors import ImageTooLargeError, OutputError
from tar2ext4.layout import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLUSH_SIZE: Final = 1 << 20
#: Shorter runs of zeros are not worth a hole.
_HOLE_SIZE: Final = 64 << 10
_ZEROS: Final = bytes(_HOLE_SIZE)

Bytes = bytes | bytearray | memoryview


class ImageFile:
    """An image that is being written.

    What was skipped reads as zeros: as a hole where the file can have one.

    Attributes:
        position: Where the next bytes go.
    """

    def __init__(self, descriptor: int, name: str, limit: int) -> None:
        """Write to an open file, which must be empty or of a fixed size (a device).

        Args:
            descriptor: Open for reading and writing; stays open.
            name: For messages.
            limit: Size in bytes that `position` must not exceed.
        """
        self.position = 0
        self._descriptor = descriptor
        self._name = name
        self._limit = limit
        self._buffer = bytearray()
        self._can_have_holes = stat.S_ISREG(os.fstat(descriptor).st_mode)

    @property
    def block(self) -> int:
        """The block that `position` is in."""
        return self.position // BLOCK_SIZE

    def write(self, data: Bytes) -> None:
        """Append bytes.

        Raises:
            ImageTooLargeError: beyond the limit.
            OutputError: the file cannot be written.
        """
        size = len(data)
        if self.position + size > self._limit:
            raise self._too_large()
        if size >= _FLUSH_SIZE:
            self.flush()
            self._put(data, self.position)
            self.position += size
            return
        self.position += size
        buffer = self._buffer
        buffer += data
        if len(buffer) >= _FLUSH_SIZE:
            self.flush()

    def zeros(self, count: int) -> None:
        """Append zeros."""
        if count < _HOLE_SIZE:
            self.write(_ZEROS[:count])
            return
        if not self._can_have_holes:
            while count > 0:
                piece = min(count, _HOLE_SIZE)
                self.write(_ZEROS[:piece])
                count -= piece
            return
        self.flush()
        if self.position + count > self._limit:
            raise self._too_large()
        self.position += count

    def align(self) -> None:
        """Append zeros up to the next block."""
        if rest := self.position % BLOCK_SIZE:
            self.write(_ZEROS[: BLOCK_SIZE - rest])

    def skip_to_block(self, block: int) -> None:
        """Go on at a later block; who skips writes what is between afterwards."""
        self.flush()
        self.position = block * BLOCK_SIZE

    def write_at(self, block: int, data: Bytes) -> None:
        """Write blocks elsewhere; `position` stays."""
        self.flush()
        self._put(data, block * BLOCK_SIZE)

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes that were written.

        Raises:
            OutputError: they cannot be read.
        """
        self.flush()
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise OutputError(f"{self._name}: cannot read it back: {error.strerror}") from error
        if len(data) != size:
            raise OutputError(f"{self._name}: ends at byte {offset + len(data)}, while written")
        return data

    def finish(self) -> None:
        """Write out everything, and make the file as long as what is in it."""
        self.flush()
        if self._can_have_holes:
            with self._errors():
                os.ftruncate(self._descriptor, self.position)

    def flush(self) -> None:
        if self._buffer:
            self._put(self._buffer, self.position - len(self._buffer))
            self._buffer = bytearray()

    def _too_large(self) -> ImageTooLargeError:
        return ImageTooLargeError(
            f"{self._name}: the image would exceed its maximum size of {self._limit} bytes"
        )

    def _put(self, data: Bytes, offset: int) -> None:
        view = memoryview(data)
        with self._errors():
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                offset += written
                view = view[written:]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(self._name, error) from error


def output_error(name: str, error: OSError) -> OutputError:
    """What to say when writing failed."""
    advice = "; free some space, or write elsewhere" if error.errno == errno.ENOSPC else ""
    return OutputError(f"{name}: cannot write the image: {error.strerror}{advice}")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[int]:
    """A descriptor of a new file that takes its place at `path` once the body has succeeded.

    Until then a file at `path` stays as it is; when the body fails, nothing is left behind. What is
    no regular file, such as a block device, is written in place.

    Raises:
        OutputError: the file cannot be made, or not put in its place.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise output_error(path, error) from error
    if mode is not None and not stat.S_ISREG(mode):
        yield from _in_place(path)
        return
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target)
        )
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield descriptor
        try:
            os.fchmod(descriptor, 0o666 & ~_umask() if mode is None else stat.S_IMODE(mode))
            os.replace(temporary, target)
        except OSError as error:
            raise output_error(path, error) from error
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _in_place(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _umask() -> int:
    # /proc tells without changing it for a moment, which other threads would notice.
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077
