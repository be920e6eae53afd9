"""Which libraries programs need."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.image import elf
from scripts.image.errors import BuildError

LIBRARIES = "lib/x86_64-linux-gnu"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A package with a program that needs libone, which needs libtwo."""
    folder = tmp_path / LIBRARIES
    folder.mkdir(parents=True)

    def build(target: Path, source: str, *options: str) -> None:
        command = ["gcc", "-x", "c", "-", "-x", "none", "-nostdlib", "-o", str(target), *options]
        subprocess.run(command, input=source, text=True, check=True)

    two = ("-shared", "-fPIC", "-Wl,-soname,libtwo.so.2")
    build(folder / "libtwo.so.2", "int two(void) { return 2; }", *two)
    one = ("-shared", "-fPIC", "-Wl,-soname,libone.so.1", f"{folder}/libtwo.so.2")
    build(folder / "libone.so.1", "int two(void); int one(void) { return two(); }", *one)
    program = (f"-L{folder}", "-l:libone.so.1", "-Wl,-rpath,/opt/a:/opt/b")
    build(
        tmp_path / "program",
        "int one(void); void _start(void) { one(); }",
        *program,
        "-Wl,--dynamic-linker=/opt/loader",
        "-Wl,--allow-shlib-undefined",
    )
    return tmp_path


def test_the_dynamic_section_is_read(packages: Path) -> None:
    found = elf.dynamic((packages / "program").read_bytes())
    assert found.interpreter == "/opt/loader"
    assert found.needed == ("libone.so.1",)
    assert found.search == ("/opt/a", "/opt/b")
    assert elf.dynamic((packages / LIBRARIES / "libtwo.so.2").read_bytes()).soname == "libtwo.so.2"


def test_libraries_of_libraries_are_found(packages: Path) -> None:
    found = elf.Libraries([packages]).closure([packages / "program"])
    places = {name: place for name, (_, place) in found.items()}
    assert places == {
        "libone.so.1": f"{LIBRARIES}/libone.so.1",
        "libtwo.so.2": f"{LIBRARIES}/libtwo.so.2",
    }


def test_a_library_in_no_package_is_named_with_who_needs_it(packages: Path) -> None:
    (packages / LIBRARIES / "libtwo.so.2").unlink()
    with pytest.raises(BuildError, match=r"libone\.so\.1 needs libtwo\.so\.2"):
        elf.Libraries([packages]).closure([packages / "program"])


def test_a_static_program_needs_nothing() -> None:
    found = elf.dynamic(Path("/bin/busybox").read_bytes())
    assert found == elf.Dynamic("", (), "", ())


def test_what_is_no_elf_file_is_refused() -> None:
    with pytest.raises(BuildError, match="ELF"):
        elf.dynamic(b"#!/bin/sh\n")
