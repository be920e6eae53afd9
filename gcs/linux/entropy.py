"""Feeding the kernel's random number generator (random(4))."""

from __future__ import annotations

import fcntl

# linux/random.h: _IOW('R', 0x03, int[2])
RNDADDENTROPY = 0x40085203


def add_entropy(descriptor: int, data: bytes) -> None:
    """Mix `data` in and credit all of its bits.

    descriptor: /dev/random or /dev/urandom, opened for writing.
    data: at most 1016 bytes are passed in one ioctl; longer data in several.

    Raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    # fcntl.ioctl copies its argument into a buffer of 1024 bytes; 8 of them are the two counts.
    for start in range(0, len(data), 1016):
        piece = data[start : start + 1016]
        bits, size = len(piece) * 8, len(piece)
        counts = bits.to_bytes(4, "little") + size.to_bytes(4, "little")
        try:
            fcntl.ioctl(descriptor, RNDADDENTROPY, counts + piece)
        except OSError as error:
            raise OSError(
                error.errno, f"ioctl RNDADDENTROPY: {error.strerror}", f"descriptor {descriptor}"
            ) from None
