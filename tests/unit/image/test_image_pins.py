"""The lock file: its form, and that it names everything the image is made of."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from scripts.image import pins, refresh
from scripts.image.architecture import ARCHITECTURES, Architecture
from scripts.image.distributions import ANY, DISTRIBUTIONS, WHEELS
from scripts.image.errors import BuildError

REPOSITORY = Path(__file__).resolve().parents[3]
PIN = pins.Pin("debian", "amd64", "runc", "1.1", "0" * 64)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    wheel = pins.Pin("pypi", ANY, "msgspec", "2", "f" * 64, "msgspec-2.whl")
    written = pins.Pins([wheel, PIN], tmp_path / "lock")
    written.write()
    read = pins.read(tmp_path / "lock")
    assert list(read) == [PIN, wheel]
    assert read.debian("amd64", "runc") == PIN
    assert read.debian("arm64", "runc") is None
    assert read.pypi(ANY, "msgspec") == wheel


@pytest.mark.parametrize(
    "line",
    [
        "debian amd64 runc 1.1",
        f"npm amd64 runc 1.1 {'0' * 64}",
        f"debian amd64 runc 1.1 {'0' * 63}",
        f"pypi any msgspec 2 {'0' * 64}",
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lock"
    path.write_text(f"# head\n\n{line}\n")
    with pytest.raises(BuildError, match=r"lock:3: "):
        pins.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="make lock"):
        pins.read(tmp_path / "lock")


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda each: each.name)
def test_every_package_is_locked(architecture: Architecture) -> None:
    locked = pins.read()
    names = {*refresh.PACKAGES, architecture.kernel_package}
    assert {name for name in names if locked.debian(architecture.name, name) is None} == set()
    for name in DISTRIBUTIONS:
        assert locked.pypi(architecture.name if name in WHEELS else ANY, name) is not None


def test_what_the_agent_requires_is_what_the_image_has() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {each.partition(">")[0] for each in project["dependencies"]} == set(DISTRIBUTIONS)
