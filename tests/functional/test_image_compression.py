"""The initrd's compressions: what Linux unpacks, undone here by other programs."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from scripts.image.compression import COMPRESSIONS, compress
from scripts.image.errors import BuildError
from tests.functional.image_support import build, errors

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = {
    "gzip": b"\x1f\x8b\x08",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x02\x21\x4c\x18",  # of the legacy form
    "none": b"070701",
}
UNPACK = {"gzip": ["gzip", "-dc"], "zstd": ["zstd", "-dc"], "lz4": ["lz4", "-dc"], "none": ["cat"]}


@pytest.fixture
def cpio(tmp_path: Path) -> bytes:
    """Content that compresses, longer than the block that LZ4 takes at a time."""
    work = tmp_path / "build"
    work.mkdir()
    text = "".join(f"{number:08x} {number * 7919 % 104729:08x}\n" for number in range(4000))
    content = b"070701" + text.encode() * 130
    (work / "initrd.cpio").write_bytes(content)
    return content


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_another_program_unpacks_it(tmp_path: Path, cpio: bytes, kind: str) -> None:
    out = tmp_path / "out"
    done = build("compress", out=out, work=tmp_path / "build", COMPRESSION=kind)
    assert (done.returncode, done.stderr) == (0, "")
    packed = (out / "initrd.img").read_bytes()
    assert packed.startswith(MAGIC[kind])
    with (out / "initrd.img").open("rb") as file:
        unpacked = subprocess.run(UNPACK[kind], stdin=file, check=True, capture_output=True)
    assert unpacked.stdout == cpio
    compress(kind, tmp_path / "build/initrd.cpio", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == packed


def test_gzip_is_what_one_gets(tmp_path: Path, cpio: bytes) -> None:
    done = build("compress", out=tmp_path / "out", work=tmp_path / "build")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/initrd.img").read_bytes().startswith(MAGIC["gzip"])


def test_an_unknown_one_is_refused_with_one_line(tmp_path: Path, cpio: bytes) -> None:
    done = build("compress", out=tmp_path / "out", work=tmp_path / "build", COMPRESSION="xz")
    assert done.returncode == 1
    (line,) = errors(done)
    assert line == "build_initrd: COMPRESSION=xz: expected one of gzip, zstd, lz4, none"
    assert not (tmp_path / "out").exists()


def test_a_missing_program_is_named(
    tmp_path: Path, cpio: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"^zstd: not found; run 'make setup'"):
        compress("zstd", tmp_path / "build/initrd.cpio", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
