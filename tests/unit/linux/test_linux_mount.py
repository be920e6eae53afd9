"""Options into flags, the mount table, and what a failed mount says."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gcs.linux.libc import call, system_call
from gcs.linux.mount import (
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    UMOUNT_NOFOLLOW,
    mount,
    mounts_under,
    parse_mount_options,
    unmount,
)
from gcs.linux.mountinfo import MountEntry, parse_mountinfo, read_mounts, unescape

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("options", "flags", "data"),
    [
        ([], 0, ""),
        (["defaults"], 0, ""),
        (["ro", "noexec"], MS_RDONLY | MS_NOEXEC, ""),
        (["ro", "noload"], MS_RDONLY, "noload"),
        (["ro", "rw"], 0, ""),
        (["nosuid,nodev,size=10m"], MS_NOSUID | MS_NODEV, "size=10m"),
        (["size=10m", "noatime", "mode=0755"], MS_NOATIME, "size=10m,mode=0755"),
        (["rbind"], MS_BIND | MS_REC, ""),
        (["", "ro,"], MS_RDONLY, ""),
    ],
)
def test_options_become_flags_and_data(options: list[str], flags: int, data: str) -> None:
    assert parse_mount_options(options) == (flags, data)


def test_failed_mount_names_both_places_and_what_was_tried(tmp_path: Path) -> None:
    target = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        mount("tmpfs", target, "tmpfs", MS_NODEV, "size=1m")
    assert (caught.value.filename, caught.value.filename2) == ("tmpfs", target)
    assert "mount tmpfs" in str(caught.value)
    assert "size=1m" in str(caught.value)


def test_unmount_of_a_plain_directory_names_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unmount") as caught:
        unmount(str(tmp_path), UMOUNT_NOFOLLOW)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("odd", ["\r", "\v", "\f", "\x1c", "\x85", "\N{LINE SEPARATOR}"])
def test_only_a_newline_ends_a_line_of_mountinfo(odd: str) -> None:
    line = f"36 35 98:0 / /mnt/a{odd}b rw - ext4 /dev/x rw\n"
    assert [entry.target for entry in parse_mountinfo(line * 2)] == [f"/mnt/a{odd}b"] * 2


def test_mountinfo_line_with_optional_fields_and_escapes() -> None:
    line = r"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime shared:1 master:2 - ext3 /dev/root rw,err"
    assert parse_mountinfo(line + "\n") == [
        MountEntry(
            identifier=36,
            parent=35,
            device="98:0",
            root="/mnt1",
            target="/mnt 2\\x",
            options="rw,noatime",
            filesystem="ext3",
            source="/dev/root",
            filesystem_options="rw,err",
            propagation="shared:1 master:2",
        )
    ]


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [("plain", "plain"), (r"a\040b", "a b"), (r"\011\012\134", "\t\n\\"), (r"\0400", " 0")],
)
def test_unescape(escaped: str, plain: str) -> None:
    assert unescape(escaped) == plain


def test_own_mounts_contain_proc() -> None:
    assert any(entry.filesystem == "proc" and entry.target == "/proc" for entry in read_mounts())


def test_mounts_of_a_gone_process() -> None:
    with pytest.raises(FileNotFoundError):
        read_mounts(pid=2**22 + 1)


def test_order_of_mounts_under_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(identifier: int, parent: int, target: str) -> MountEntry:
        return MountEntry(identifier, parent, "0:1", "/", target, "rw", "tmpfs", "t", "rw")

    table = [
        entry(1, 0, "/"),
        entry(2, 1, "/a"),
        entry(3, 2, "/a/b"),
        entry(4, 1, "/ab"),
        entry(5, 2, "/a/c"),
        entry(6, 3, "/a/b"),
    ]
    monkeypatch.setattr("gcs.linux.mountinfo.read_mounts", lambda: table)
    assert mounts_under("/a") == ["/a/b", "/a/c", "/a/b", "/a"]
    assert mounts_under("/a/") == mounts_under("/a")
    assert mounts_under("/nothing") == []


def test_unknown_c_function_is_an_error() -> None:
    with pytest.raises(OSError, match="no_such_function"):
        call("no_such_function")


def test_system_call_without_number_says_so() -> None:
    with pytest.raises(OSError, match=os.uname().machine) as caught:
        system_call("no_such_call")
    assert caught.value.errno == errno.ENOSYS
