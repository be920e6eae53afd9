"""Unmounting by the rules of spec 5.8, with a double of the kernel."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from gcs.linux.mount import UMOUNT_NOFOLLOW
from gcs.protocol.errors import GcsError
from gcs.storage.mounts import (
    require_unmounted,
    try_unmount,
    unmount_all_under,
    unmount_path,
)
from tests.support.storage import RecordingMounts

if TYPE_CHECKING:
    from pathlib import Path


def test_everything_stacked_at_a_place_is_unmounted(tmp_path: Path) -> None:
    system = RecordingMounts()
    place = tmp_path / "m"
    place.mkdir()
    system.table = ["/other", *[str(place)] * 7]
    unmount_path(system, str(place))
    assert system.table == ["/other"]
    assert not place.exists()


def test_a_place_that_is_gone_is_fine(tmp_path: Path) -> None:
    system = RecordingMounts()
    unmount_path(system, f"{tmp_path}/missing")
    assert system.calls == []


def test_a_directory_that_is_no_mount_is_removed_when_empty(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    unmount_path(RecordingMounts(), f"{tmp_path}/m")
    assert not (tmp_path / "m").exists()


def test_content_under_a_mount_is_not_deleted(tmp_path: Path) -> None:
    system = RecordingMounts()
    (tmp_path / "data").write_text("precious")
    system.table = [str(tmp_path)]
    unmount_path(system, str(tmp_path))
    assert (tmp_path / "data").read_text() == "precious"


def test_what_is_mounted_below_is_named_and_everything_stays(tmp_path: Path) -> None:
    system = RecordingMounts()
    below = tmp_path / "rootfs"
    below.mkdir()
    system.table = [str(tmp_path), str(below)]
    system.busy = {str(tmp_path)}
    with pytest.raises(GcsError, match=f"{tmp_path}: in use by what is mounted at {below};"):
        unmount_path(system, str(tmp_path), busy_limit=3600)
    assert system.table == [str(tmp_path), str(below)]
    assert below.exists()


def test_a_mount_whose_users_are_just_ending_is_waited_for(tmp_path: Path) -> None:
    class Ending(RecordingMounts):
        def unmount(self, target: str, flags: int = 0) -> None:
            if len(self.calls) == 3:
                self.busy.clear()
            super().unmount(target, flags)

    system = Ending()
    system.table = [str(tmp_path)]
    system.busy = {str(tmp_path)}
    unmount_path(system, str(tmp_path), busy_limit=3600)
    assert system.table == []
    assert len(system.calls) == 4


def test_other_failures_are_answered(tmp_path: Path) -> None:
    class Failing(RecordingMounts):
        def unmount(self, target: str, flags: int = 0) -> None:
            raise OSError(errno.EPERM, "unmount: Operation not permitted", target)

    system = Failing()
    system.table = [str(tmp_path)]
    with pytest.raises(GcsError, match="Operation not permitted"):
        unmount_path(system, str(tmp_path))


def test_nothing_is_detached_by_force_or_lazily_and_no_link_is_followed(tmp_path: Path) -> None:
    class Flags(RecordingMounts):
        def unmount(self, target: str, flags: int = 0) -> None:
            assert flags == UMOUNT_NOFOLLOW
            super().unmount(target, flags)

    system = Flags()
    system.table = [str(tmp_path)]
    unmount_path(system, str(tmp_path))
    system.table = [str(tmp_path)]
    unmount_all_under(system, str(tmp_path))
    try_unmount(system, str(tmp_path))
    assert [call[0] for call in system.calls] == ["unmount"] * 3


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT])
def test_what_somebody_else_unmounts_meanwhile_is_fine(tmp_path: Path, number: int) -> None:
    class Late(RecordingMounts):
        def unmount(self, target: str, flags: int = 0) -> None:
            self.table.clear()
            raise OSError(number, "unmount", target)

    system = Late()
    place = tmp_path / "m"
    place.mkdir()
    system.table = [str(place)]
    unmount_path(system, str(place))
    assert not place.exists()
    system.table = [str(tmp_path)]
    unmount_all_under(system, str(tmp_path))


def test_a_place_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GcsError, match=r"remove directory .*/file/m: Not a directory"):
        unmount_path(RecordingMounts(), f"{tmp_path}/file/m")


def test_a_whole_tree_is_unmounted_last_first(tmp_path: Path) -> None:
    system = RecordingMounts()
    system.table = ["/other", f"{tmp_path}", f"{tmp_path}/a", f"{tmp_path}/b", f"{tmp_path}x"]
    system.busy = {f"{tmp_path}/a"}
    with pytest.raises(GcsError, match=f"busy: '{tmp_path}/a'"):
        unmount_all_under(system, str(tmp_path), busy_limit=0)
    assert system.calls == [
        ("unmount", f"{tmp_path}/b"),
        ("unmount", f"{tmp_path}/a"),
        ("unmount", f"{tmp_path}"),
    ]


def test_a_place_that_is_taken_is_refused() -> None:
    system = RecordingMounts()
    system.table = ["/run/x"]
    with pytest.raises(GcsError, match="something is mounted at /run/x already"):
        require_unmounted(system, "/run/x")
    require_unmounted(system, "/run/xy")
