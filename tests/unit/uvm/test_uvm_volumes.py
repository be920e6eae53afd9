"""Volumes: on the command line, in specifications, and on their way to a keeper."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from uvm.cli import main
from uvm.cli.options import build_parser
from uvm.cli.volumes import parse_volume, parse_volumes
from uvm.container import ContainerPlace, place_of_its_own
from uvm.errors import UvmError
from uvm.spec import ContainerOptions, ProcessOptions, Volume, bind_mount, container_document

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b:ro").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("d/../file")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "source", "target", "read_only"),
    [
        ("d:/data", "d", "/data", False),
        ("./d:/data:ro", "d", "/data", True),
        ("d:/data:rw", "d", "/data", False),
        ("d://a/./b/../c/", "d", "/a/c", False),
        (".:/x", "", "/x", False),
        ("a:b:/data", "a:b", "/data", False),
        ("a:b:ro:/data:ro", "a:b:ro", "/data", True),
        ("d:/ro", "d", "/ro", False),
        ("file:/etc/x.conf:ro", "file", "/etc/x.conf", True),
        ("link:/etc/x.conf", "file", "/etc/x.conf", False),
    ],
)
def test_what_is_a_volume(here: Path, text: str, source: str, target: str, read_only: bool) -> None:
    assert parse_volume(text) == Volume(str(here / source), target, read_only)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("d", "not in the form"),
        ("/data", "not in the form"),
        (":/data", "not in the form"),
        ("d:", "not in the form"),
        ("d:data", "not in the form"),
        ("d:/data:", "not in the form"),
        ("d:/data:RO", "not in the form"),
        ("d:/data:ro:ro", "not in the form"),
        ("d:/da\0ta", "not in the form"),
        ("d:/", "root file system"),
        ("d:/x/..", "root file system"),
        ("none:/data", "/none does not exist"),
        ("pipe:/data", "/pipe is neither a directory nor a regular file"),
        (os.fsdecode(b"\xff") + ":/data", "not UTF-8"),
    ],
)
def test_what_is_none(here: Path, text: str, complaint: str) -> None:
    with pytest.raises(UvmError, match=complaint):
        parse_volume(text)


def test_two_volumes_at_one_place(here: Path) -> None:
    with pytest.raises(UvmError, match="two volumes at /data"):
        parse_volumes(["d:/data", f"{here}:/data/:ro"])


def test_on_the_command_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = build_parser().parse_args(["run", "-v", "d:/a", "--volume", ".:/b:ro", "fs"])
    assert arguments.volume == ["d:/a", ".:/b:ro"]
    assert main(["run", "-v", "none:/data"]) == 125
    assert capfd.readouterr().err.startswith(f"uvm: -v 'none:/data': {here}/none ")


def test_volumes_are_bound_behind_what_every_container_has() -> None:
    volume = Volume("/host", "/data", read_only=True)
    mount = bind_mount(volume, "/run/gcs/c/x/mounts/m0")
    options = ContainerOptions(ProcessOptions(("true",)), volumes=(volume,))
    mounts = container_document(options, "/r", mounts=[mount])["mounts"]
    assert mounts[:-1] == container_document(options, "/r")["mounts"]
    assert mounts[-1] == {
        "destination": "/data",
        "type": "bind",
        "source": "/run/gcs/c/x/mounts/m0",
        "options": ["rbind", "rprivate", "ro"],
    }
    assert bind_mount(Volume("/host", "/data"), "/x")["options"] == ["rbind", "rprivate", "rw"]


def test_shares_are_mounted_where_the_shims_mount_them() -> None:
    assert place_of_its_own("id").share_mount(3, "77") == "/run/gcs/c/id/mounts/m3"
    place = ContainerPlace("/run/gcs/pods/p/c", "/m", "/m/s", "/run/mounts/plan9")
    assert place.share_mount(3, "77") == "/run/mounts/plan9/77"
