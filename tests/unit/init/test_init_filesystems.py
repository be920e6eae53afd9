"""The tables of file systems, applied to a double of the kernel."""

from __future__ import annotations

import errno
import os

import pytest

from gcs.init.filesystems import OVERLAY_TABLE, ROOT_TABLE, Mount, apply_table
from gcs.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID
from tests.support.recording import RecordingSyscalls

SAFE = MS_NODEV | MS_NOSUID | MS_NOEXEC


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_file_systems_of_the_specification_in_its_order() -> None:
    kernel = RecordingSyscalls()
    apply_table(ROOT_TABLE, kernel)
    assert kernel.calls == [
        ("mount", "/dev", "dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, ""),
        ("mount", "/proc", "proc", "proc", SAFE, ""),
        ("make_symlink", "/dev/fd", "/proc/self/fd"),
        ("make_symlink", "/dev/stdin", "/proc/self/fd/0"),
        ("make_symlink", "/dev/stdout", "/proc/self/fd/1"),
        ("make_symlink", "/dev/stderr", "/proc/self/fd/2"),
        ("mount", "/run", "tmpfs", "tmpfs", SAFE, "mode=0755"),
        ("mount", "/tmp", "tmpfs", "tmpfs", SAFE, ""),
        ("make_directory", "/dev/shm", 0o755),
        ("mount", "/dev/shm", "shm", "tmpfs", SAFE, ""),
        ("make_directory", "/dev/pts", 0o755),
        ("mount", "/dev/pts", "devpts", "devpts", MS_NOSUID | MS_NOEXEC, ""),
        ("mount", "/sys", "sysfs", "sysfs", SAFE, ""),
    ]


def test_overlays_are_limited_in_size_and_var_may_hold_programs() -> None:
    kernel = RecordingSyscalls()
    apply_table(OVERLAY_TABLE, kernel)
    mounted = {call[1]: call[2:] for call in kernel.calls if call[0] == "mount"}
    assert mounted == {
        "/run/over": ("tmpfs", "tmpfs", SAFE, "size=40%,mode=0755"),
        "/etc": (
            "overlay",
            "overlay",
            SAFE,
            "lowerdir=/etc,upperdir=/run/over/etc/upper,workdir=/run/over/etc/work",
        ),
        "/var": (
            "overlay",
            "overlay",
            MS_NODEV | MS_NOSUID,
            "lowerdir=/var,upperdir=/run/over/var/upper,workdir=/run/over/var/work",
        ),
    }


def test_what_the_kernel_or_the_image_made_already_is_no_error() -> None:
    kernel = RecordingSyscalls(
        {
            ("mount", "/dev"): [failure(errno.EBUSY)],
            ("make_symlink", "/dev/fd"): [failure(errno.EEXIST)],
            ("make_directory", "/dev/shm"): [failure(errno.EEXIST)],
        }
    )
    apply_table(ROOT_TABLE, kernel)
    assert kernel.calls[-1][1] == "/sys"


@pytest.mark.parametrize(
    ("method", "path", "number"),
    [
        ("mount", "/dev", errno.EPERM),
        ("mount", "/proc", errno.EBUSY),
        ("make_symlink", "/dev/fd", errno.EROFS),
        ("make_directory", "/dev/shm", errno.ENOSPC),
    ],
)
def test_other_failures_end_it(method: str, path: str, number: int) -> None:
    kernel = RecordingSyscalls({(method, path): [failure(number)]})
    with pytest.raises(OSError, match=os.strerror(number)):
        apply_table(ROOT_TABLE, kernel)
    assert kernel.calls[-1][:2] == (method, path)


def test_missing_mount_point_is_made() -> None:
    target = "/no/such/place/anywhere"
    kernel = RecordingSyscalls({("mount", target): [failure(errno.ENOENT)]})
    apply_table((Mount("t", target, "tmpfs"),), kernel)
    assert [call[0] for call in kernel.calls] == ["mount", "make_directory", "mount"]


def test_missing_source_is_not_mistaken_for_a_missing_mount_point() -> None:
    kernel = RecordingSyscalls({("mount", "/"): [failure(errno.ENOENT)]})
    with pytest.raises(FileNotFoundError):
        apply_table((Mount("/dev/nothing", "/", "ext4"),), kernel)
    assert [call[0] for call in kernel.calls] == ["mount"]
