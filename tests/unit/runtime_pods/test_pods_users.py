"""Users and groups of a container, looked up in its own files (spec 4.5, no. 6)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.oci import read_process
from gcs.runtime.pods.exec_process import ProcessDefaults
from gcs.runtime.pods.users import edit_user, look_up_user
from tests.support.pods import edit_of

if TYPE_CHECKING:
    from pathlib import Path

PASSWD = """\
root:x:0:0:root:/root:/bin/sh

# a comment
alice:x:1000:1001:Alice:/home/alice:/bin/sh
twin:x:7:7::/:
twin:x:8:8::/:
broken:x:many:1::/:
huge:x:99999999999:1::/:
short:x
bob:x:2000:2000::/:
"""
GROUP = """\
root:x:0:
wheel:x:10:alice,bob
staff:x:1001:alice
video:x:44:bob
crowd:x:50:
crowd:x:51:
nothing
"""
RLIMITS = [
    {"type": "RLIMIT_CORE", "soft": 1, "hard": 2},
    {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 4},
]


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "uid", "gid", "others"),
    [
        ("alice", 1000, 1001, (10,)),
        ("alice:staff", 1000, 1001, (10,)),
        ("alice:video", 1000, 44, (10, 1001)),
        ("alice:wheel", 1000, 10, (1001,)),
        ("alice:77", 1000, 77, (10, 1001)),
        ("1000", 1000, 1001, (10,)),
        ("1000:5", 1000, 5, (10, 1001)),
        ("4242", 4242, 0, ()),
        ("4242:wheel", 4242, 10, ()),
        ("4294967295:4294967295", 4294967295, 4294967295, ()),
        ("+0", 0, 0, ()),
        ("root", 0, 0, ()),
    ],
)
def test_forms(rootfs: Path, text: str, uid: int, gid: int, others: tuple[int, ...]) -> None:
    assert look_up_user(os.fspath(rootfs), text) == (uid, gid, others)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "user 'nobody' is in the container's files 0 times"),
        ("twin", "2 times"),
        ("broken", "0 times"),
        ("huge", "0 times"),
        ("short", "0 times"),
        ("alice:nogroup", "group 'nogroup'"),
        ("alice:crowd", "2 times"),
        ("alice:", "group ''"),
        (":wheel", "user ''"),
        ("a:b:c", "expected user or user:group"),
        ("4294967296", "32 bits"),
        ("-1", "32 bits"),
        ("0:4294967296", "32 bits"),
        ("٣", "0 times"),
    ],
)
def test_errors(rootfs: Path, text: str, message: str) -> None:
    with pytest.raises(GcsError, match=message):
        look_up_user(os.fspath(rootfs), text)


def test_numbers_need_no_files(tmp_path: Path) -> None:
    assert look_up_user(os.fspath(tmp_path), "5:6") == (5, 6, ())
    with pytest.raises(GcsError, match="'alice'"):
        look_up_user(os.fspath(tmp_path), "alice")


def test_links_lead_nowhere_but_into_the_container(rootfs: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "passwd").write_text("alice:x:0:0::/:\n")
    passwd = rootfs / "etc/passwd"
    passwd.rename(rootfs / "real")
    # Absolute, and climbing: both are taken as seen from inside of the container.
    passwd.symlink_to("/real")
    assert look_up_user(os.fspath(rootfs), "alice").uid == 1000
    passwd.unlink()
    passwd.symlink_to("../../../../real")
    assert look_up_user(os.fspath(rootfs), "alice").uid == 1000
    passwd.unlink()
    passwd.symlink_to(outside / "passwd")
    with pytest.raises(GcsError, match="'alice'"):
        look_up_user(os.fspath(rootfs), "alice")


@pytest.mark.parametrize("what", ["pipe", "directory", "link loop"])
def test_a_passwd_that_is_no_file_stops_nothing_but_the_container(rootfs: Path, what: str) -> None:
    passwd = rootfs / "etc/passwd"
    passwd.unlink()
    match what:
        case "pipe":
            os.mkfifo(passwd)
        case "directory":
            passwd.mkdir()
        case _:
            passwd.symlink_to("passwd")
    with pytest.raises(GcsError, match="/etc/passwd of the container"):
        look_up_user(os.fspath(rootfs), "alice")


def test_an_enormous_passwd(rootfs: Path) -> None:
    with (rootfs / "etc/passwd").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(GcsError, match="too large"):
        look_up_user(os.fspath(rootfs), "alice")


@pytest.mark.parametrize("kind", ["sandbox", "workload", "standalone"])
def test_the_process_gets_the_ids(rootfs: Path, kind: str) -> None:
    user = {"username": "alice", "additionalGids": [10, 3]}
    edit = edit_of(rootfs, kind, root={"path": os.fspath(rootfs)}, process={"user": user})
    edit_user(edit)
    assert edit.document["process"]["user"] == {
        "username": "alice",
        "uid": 1000,
        "gid": 1001,
        "additionalGids": [10, 3],
    }


def test_without_a_name_the_ids_of_the_host_stay(rootfs: Path) -> None:
    edit = edit_of(rootfs, root={"path": os.fspath(rootfs)}, process={"user": {"uid": 5}})
    edit_user(edit)
    assert edit.document["process"]["user"] == {"uid": 5}


class TestExec:
    """A process that is run in a container (spec 4.10)."""

    def defaults(self, rootfs: Path, username: str = "alice") -> ProcessDefaults:
        process = {"user": {"username": username}, "rlimits": list(RLIMITS)}
        edit = edit_of(rootfs, root={"path": os.fspath(rootfs)}, process=process)
        edit_user(edit)
        return ProcessDefaults.of(edit.document, edit.rootfs)

    def completed(self, defaults: ProcessDefaults, **members: Any) -> dict[str, Any]:
        document, process = read_process({"args": ["true"], **members})
        defaults.apply(document, process)
        return document

    def test_a_name_of_its_own_is_looked_up(self, rootfs: Path) -> None:
        document = self.completed(self.defaults(rootfs), user={"username": "bob", "uid": 9})
        assert document["user"] == {"uid": 2000, "gid": 2000, "additionalGids": [10, 44]}

    @pytest.mark.parametrize("user", [None, {}, {"uid": 0, "gid": 0}])
    def test_without_one_it_is_the_containers_user(self, rootfs: Path, user: Any) -> None:
        document = self.completed(self.defaults(rootfs), user=user)
        assert document["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [10]}

    def test_ids_of_its_own_stay(self, rootfs: Path) -> None:
        document = self.completed(self.defaults(rootfs), user={"uid": 5, "gid": 0})
        assert document["user"] == {"uid": 5, "gid": 0}

    def test_a_container_without_a_name_says_nothing(self, rootfs: Path) -> None:
        document = self.completed(self.defaults(rootfs, username=""), user={"uid": 0, "gid": 0})
        assert document["user"] == {"uid": 0, "gid": 0}

    def test_limits_of_the_container_are_added(self, rootfs: Path) -> None:
        own = {"type": "RLIMIT_NOFILE", "soft": 7, "hard": 8}
        document = self.completed(self.defaults(rootfs), rlimits=[own])
        assert document["rlimits"] == [own, RLIMITS[0]]
        assert self.completed(self.defaults(rootfs))["rlimits"] == RLIMITS
