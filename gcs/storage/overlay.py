r"""Mounting overlays of up to 500 layers, whatever their paths look like.

The classic mount(2) takes all options as one string of at most a page, in which `:`, `,` and `\`
are special.  So there are three ways, best first:

1. Linux 6.8 and later: options one by one, a `lowerdir+` for each layer (`mount_by_context`).
2. Otherwise, when the string is short and plain: mount(2) with the paths as they are, which is what
   /proc/mounts then shows (`mount_by_string`).
3. Otherwise mount(2) with the numbers of open directories as names, relative to /proc/self/fd
   (`mount_by_descriptors`).
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from errno import EINVAL, ENODEV, ENOSYS, EPERM
from typing import TYPE_CHECKING

from gcs.linux.fscontext import MAX_VALUE, FilesystemContext
from gcs.linux.libc import call
from gcs.linux.mount import MS_BIND, MS_RDONLY, MS_REMOUNT, mount, unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Most lower layers that the kernel takes (OVL_MAX_STACK).
MAX_LAYERS = 500
_SPECIAL = frozenset(":,\\")
_CLONE_FS = 0x200

_appends_layers: bool | None = None


def mount_overlay(target: str, layers: Sequence[str], upper: str, work: str) -> None:
    """Lay directories over each other at `target`.

    layers: absolute paths, top-most first; at least one, at most MAX_LAYERS.
    upper, work: for what is written, on one file system; both "" for a read-only mount.

    Raises OSError naming the target or the directory that was refused.
    """
    if not upper and len(layers) == 1:
        # The kernel refuses an overlay of a single directory: there is nothing to lay over.
        _bind_read_only(layers[0], target)
    elif _kernel_appends_layers():
        mount_by_context(target, layers, upper, work)
    elif _fits_string(layers, upper, work):
        mount_by_string(target, layers, upper, work)
    else:
        mount_by_descriptors(target, layers, upper, work)


def mount_by_context(target: str, layers: Sequence[str], upper: str, work: str) -> None:
    """Mount with options given one by one (Linux 6.8 and later); see `mount_overlay`."""
    with FilesystemContext("overlay") as context, ExitStack() as opened:
        context.set_option("source", "overlay")
        for layer in layers:
            context.set_option("lowerdir+", _short_name(layer, opened))
        if upper:
            context.set_option("upperdir", _short_name(upper, opened, unescaped=True))
            context.set_option("workdir", _short_name(work, opened, unescaped=True))
        context.mount(target, read_only=not upper)


def mount_by_string(target: str, layers: Sequence[str], upper: str, work: str) -> None:
    """Mount with the paths as they are, in one string; see `mount_overlay`."""
    mount("overlay", target, "overlay", 0 if upper else MS_RDONLY, _options(layers, upper, work))


def mount_by_descriptors(target: str, layers: Sequence[str], upper: str, work: str) -> None:
    """Mount with descriptors as names, which are short and plain; see `mount_overlay`."""
    with ExitStack() as opened:
        names = [str(_open_directory(layer, opened)) for layer in layers]
        upper_name = str(_open_directory(upper, opened)) if upper else ""
        work_name = str(_open_directory(work, opened)) if upper else ""
        options = _options(names, upper_name, work_name)
        _in_directory(
            "/proc/self/fd",
            lambda: mount("overlay", target, "overlay", 0 if upper else MS_RDONLY, options),
        )


def _bind_read_only(source: str, target: str) -> None:
    mount(source, target, "", MS_BIND)
    try:
        mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    except OSError:
        unmount(target)
        raise


def _options(layers: Sequence[str], upper: str, work: str) -> str:
    options = "lowerdir=" + ":".join(layers)
    return f"{options},upperdir={upper},workdir={work}" if upper else options


def _fits_string(layers: Sequence[str], upper: str, work: str) -> bool:
    plain = not any(_SPECIAL.intersection(path) for path in (*layers, upper, work))
    # The kernel copies a page and forces its last byte to zero.
    page = os.sysconf("SC_PAGE_SIZE")
    return plain and len(os.fsencode(_options(layers, upper, work))) < page


def _kernel_appends_layers() -> bool:
    """Whether the kernel knows `lowerdir+`; asked once, by trying."""
    global _appends_layers  # noqa: PLW0603 - a fact about the kernel, the same for all callers
    if _appends_layers is None:
        _appends_layers = _accepts("lowerdir+", "/") and not _accepts("no-such-option", "/")
    return _appends_layers


def _accepts(option: str, value: str) -> bool:
    # A kernel whose overlay is not ported to contexts collects options and refuses them later,
    # so that it accepts an unknown one, too.
    try:
        with FilesystemContext("overlay") as context:
            context.set_option(option, value)
    except OSError as error:
        if error.errno not in (EINVAL, ENODEV, ENOSYS, EPERM):
            raise
        return False
    return True


def _short_name(path: str, opened: ExitStack, *, unescaped: bool = False) -> str:
    r"""The path, or one through a descriptor when it is too long for an option.

    unescaped: the kernel takes `\` in this option for an escape.
    """
    if len(os.fsencode(path)) <= MAX_VALUE and not (unescaped and "\\" in path):
        return path
    return f"/proc/self/fd/{_open_directory(path, opened)}"


def _open_directory(path: str, opened: ExitStack) -> int:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor


def _in_directory(directory: str, action: Callable[[], None]) -> None:
    """Run `action` in a thread of its own whose working directory is `directory`."""
    failures: list[OSError] = []

    def run() -> None:
        try:
            call("unshare", _CLONE_FS)  # or the change would be the whole process's
            os.chdir(directory)
            action()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="overlay-mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
