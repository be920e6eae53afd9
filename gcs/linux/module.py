"""Loading kernel modules (finit_module(2))."""

from __future__ import annotations

import os

from gcs.linux.libc import naming, system_call

# linux/module.h
MODULE_INIT_COMPRESSED_FILE = 0x4

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


def load_module(path: str, parameters: str = "") -> bool:
    """Load one module file; whatever it depends on must be loaded already.

    path: file ending in one of SUFFIXES.  A compressed one is decompressed by the kernel, which
    must have been built with CONFIG_MODULE_DECOMPRESS (5.17 and later) for that compression.
    parameters: "name=value" items separated by blanks.

    Returns False when the module was loaded already.  Raises OSError naming the file: ENOENT also
    for an unknown symbol, ENODEV when the hardware it is for is missing, ENOEXEC when it was made
    for another kernel, EOPNOTSUPP or EINVAL when the kernel cannot decompress it.
    """
    flags = 0 if path.endswith(".ko") else MODULE_INIT_COMPRESSED_FILE
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        system_call("finit_module", descriptor, parameters.encode(), flags)
    except FileExistsError:
        return False
    except OSError as error:
        raise naming(error, "load module", path) from None
    finally:
        os.close(descriptor)
    return True
