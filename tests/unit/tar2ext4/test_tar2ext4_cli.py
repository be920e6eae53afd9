"""The command: flags, exit statuses, messages, and what it leaves."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tar2ext4 import superblock, vhd
from tar2ext4.cli import main
from tests.support.tar_archives import archive
from tests.support.tar_entries import hard_link, pattern, regular

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "tar2ext4"]
EMPTY = "a623b87bf0f4115924e5e1fd33e274770e2a0287bc660b8cd383029bff89ac4a"
UUID = "00112233-4455-6677-8899-aabbccddeeff"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "in.tar"
    path.write_bytes(archive("empty"))
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "out.img"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("dash", ["-", "--"])
def test_from_file_to_file(
    dash: str, tar: Path, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{dash}i", tar, f"{dash}o", image) == 0
    assert sha256(image) == EMPTY
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("flags", [[], ["-i", "-"], ["-i", ""]])
def test_from_standard_input(flags: list[str], tar: Path, image: Path) -> None:
    # What follows the archive is read to its end, so that its writer meets no broken pipe.
    data = tar.read_bytes() + bytes(1 << 20)
    result = subprocess.run(
        [*COMMAND, *flags, "-o", image], input=data, capture_output=True, check=True
    )
    assert (result.stdout, result.stderr) == (b"", b"")
    assert sha256(image) == EMPTY


def test_options(tar: Path, image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tar.write_bytes(archive("sizes"))
    uuids = ("-vhd-uuid", UUID, "-verity-uuid", UUID)
    assert run("-i", tar, "-o", image, "-overlay", "-verity", "-vhd", *uuids) == 0
    digest = capfd.readouterr().out
    assert digest == "299f08bea4f2728b377ccd1a9f5f226558b3893dbb95c59c20645414f74bbc7c\n"
    first = sha256(image)
    assert run("-i", tar, "-o", image, "-overlay", "-verity", "-vhd", *uuids) == 0
    assert sha256(image) == first
    assert run("-i", tar, "-o", image, "-inline") == 0
    assert sha256(image) == "ddcb2a29ad8bed587a2fce22dc5611bb22fa4b403bb72197e6cac47f4d93db94"
    tar.write_bytes(archive("names"))
    assert run("-i", tar, "-o", image, "-convert-slash") == 0
    assert sha256(image) == "88398962fd0b124268281d973a38eca801b33f2ea660c9316a6bb875624708ce"


def test_the_digest_alone(tar: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-i", tar, "-digest") == 0
    assert capfd.readouterr() == (
        "8b4842f06982817534a75bcf71865213b09dfa8313229c384e5201dadbd75e25\n",
        "",
    )


def test_a_footer_alone(tmp_path: Path, image: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(pattern(8192))
    # Other options are ignored, as by the reference.
    assert run("-i", disk, "-o", image, "-only-vhd", "-verity", "-overlay") == 0
    data = image.read_bytes()
    assert data[:8192] == disk.read_bytes()
    assert len(data) == 8192 + vhd.FOOTER_SIZE


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 1 << 16), ("64K", 1 << 16), ("2m", 2 << 20), ("16G", 1 << 34), ("1T", 1 << 40)],
)
def test_sizes(text: str, size: int, tar: Path, image: Path) -> None:
    assert run("-i", tar, "-o", image, "-max-size", text) == 0
    with image.open("rb") as file:
        assert superblock.read_size(file)[0] <= size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-o is required"),
        (["-o", "-"], "-o -: an image is not written in one go, and cannot go to standard output"),
        (["-o", "x", "-max-size", "12Q"], "'12Q' is no size, such as 65536, 512M or 16G"),
        (["-o", "x", "-max-size", "-5"], "'-5' is no size"),
        (["-o", "x", "-vhd-uuid", "none"], "invalid UUID value: 'none'"),
        (["-o", "x", "-overlays"], "unrecognized arguments: -overlays"),
        (["-o", "x", "in.tar"], "unrecognized arguments: in.tar"),
        (["-o"], "expected one argument"),
    ],
)
def test_a_wrong_command_line(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    errors = capfd.readouterr().err
    assert message in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("tar2ext4: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive("sizes")[:-5000], "before its data does"),
        (b"nonsense" * 100, "in.tar: entry at byte 0: no tar header: wrong checksum"),
        (regular(b"a") + hard_link(b"b", b"c"), "b: a hard link to c, which is not in the archive"),
        (None, "in.tar: cannot read it: No such file or directory"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(
    data: bytes | None, message: str, tar: Path, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tar.unlink()
    if data is not None:
        tar.write_bytes(data)
    assert run("-i", tar, "-o", image, "-verity", "-vhd") == 1
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("tar2ext4: ")
    assert errors.count("\n") == 1
    assert message in errors
    left = [path.name for path in tar.parent.iterdir()]
    assert left == ([] if data is None else ["in.tar"])


def test_a_failure_leaves_the_image_that_was_there(
    tar: Path, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image.write_bytes(b"previous")
    tar.write_bytes(archive("sizes")[:-5000])
    assert run("-i", tar, "-o", image) == 1
    assert image.read_bytes() == b"previous"
    assert capfd.readouterr().err


def test_a_full_disk(tar: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-i", tar, "-o", "/dev/full") == 1
    assert capfd.readouterr().err == (
        "tar2ext4: /dev/full: cannot write the image: No space left on device; "
        "free some space, or write elsewhere\n"
    )


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_leaves_nothing(signal_: signal.Signals, image: Path) -> None:
    """In the middle of a file that goes on."""
    entry = regular(b"large", bytes(64 << 20))
    # What runs in the background of a shell has SIGINT ignored.
    command = ["env", "--default-signal=INT,TERM", *COMMAND, "-o", str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        # More than a pipe holds: the command is reading when this has been written.
        process.stdin.write(entry[: 8 << 20])
        process.stdin.flush()
        process.send_signal(signal_)
        # Not its standard input's end: nothing but the signal ends it.
        assert process.wait() == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"tar2ext4: interrupted; nothing was written\n"
    assert list(image.parent.iterdir()) == []
