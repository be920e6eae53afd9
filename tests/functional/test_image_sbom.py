"""The list of what is in the image: valid, complete, and true."""

from __future__ import annotations

import hashlib
import json
import marshal
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts.image import pins
from scripts.image.architecture import this_machine

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "out"
UNPACKED = REPOSITORY / "build/cache/unpacked"
BUNDLE = "/usr/lib/gcs/lib/python3.11/modules.bundle"
SBOM = "info/sbom.cdx.json"


@pytest.fixture(scope="module")
def text() -> str:
    return (OUT / "sbom.cdx.json").read_text()


@pytest.fixture(scope="module")
def components(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)["components"]
    return found


@pytest.fixture(scope="module")
def listed(components: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Path of a file to what is said about it, with the component under "of"."""
    return {
        file["name"]: {**file, "of": component}
        for component in components
        for file in component.get("components", ())
    }


@pytest.fixture(scope="module")
def image() -> dict[str, bytes]:
    """Content of the regular files in the image, by path."""
    found = {}
    with tarfile.open(OUT / "rootfs.tar.gz") as archive:
        for member in archive:
            if member.isreg() or member.islnk():
                file = archive.extractfile(member)
                assert file is not None
                found[f"/{member.name}"] = file.read()
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def version_of(package: str) -> str:
    pin = pins.read().debian(this_machine().name, package)
    assert pin is not None
    debs = list((REPOSITORY / "build/cache/debs").glob(f"{package}_*.deb"))
    versions = {deb.name.split("_")[1].replace("%3a", ":") for deb in debs}
    # The archive may have gone on since the lock file was written.
    return pin.version if pin.version in versions else max(versions)


def test_it_is_valid_by_the_published_schema(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_image_carries_it(text: str, image: dict[str, bytes]) -> None:
    assert image[f"/{SBOM}"] == text.encode()


def test_each_file_is_listed_and_nothing_else(
    image: dict[str, bytes], listed: dict[str, dict[str, Any]]
) -> None:
    assert set(listed) == set(image)


def test_each_checksum_is_right(image: dict[str, bytes], listed: dict[str, dict[str, Any]]) -> None:
    said = {
        path: file["hashes"][0]["content"] for path, file in listed.items() if path != f"/{SBOM}"
    }
    assert said == {path: digest(data) for path, data in image.items() if path != f"/{SBOM}"}


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("/usr/sbin/runc", "runc"),
        ("/bin/busybox", "busybox-static"),
        ("/lib/x86_64-linux-gnu/libc.so.6", "libc6"),
        ("/usr/lib/gcs/lib/libc.so.6", "libc6"),
        ("/usr/lib/gcs/bin/python3", "python3.11-minimal"),
    ],
)
def test_a_file_names_its_package_and_version(
    listed: dict[str, dict[str, Any]], path: str, package: str
) -> None:
    component = listed[path]["of"]
    assert (component["name"], component["version"]) == (package, version_of(package))
    assert component["purl"].startswith(f"pkg:deb/debian/{package}@")


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("/init", "sources"),
        ("/usr/lib/gcs/bin/init", "sources"),
        ("/etc/passwd", "generated"),
        ("/info/gcs.commit", "generated"),
        (BUNDLE, "generated"),
        ("/usr/lib/gcs/lib/python3.11/msgspec/_core.cpython-311-x86_64-linux-gnu.so", "pypi"),
    ],
)
def test_a_file_names_what_kind_of_place_it_comes_from(
    listed: dict[str, dict[str, Any]], path: str, origin: str
) -> None:
    assert {"name": "gcs:origin", "value": origin} in listed[path]["of"]["properties"]


def test_what_is_said_to_be_as_in_the_package_is(listed: dict[str, dict[str, Any]]) -> None:
    tried = 0
    for path, file in listed.items():
        if not file["of"].get("purl", "").startswith("pkg:deb/") or "pedigree" in file:
            continue
        folder = UNPACKED / file["of"]["name"]
        same = [each for each in folder.rglob(Path(path).name) if each.is_file()]
        # The loader and mkfs have other names in the image.
        same = same or [each for each in folder.rglob("*") if each.is_file()]
        said = file["hashes"][0]["content"]
        assert said in {digest(each.read_bytes()) for each in same}, path
        tried += 1
    assert tried > 40


def test_every_module_in_the_bundle_has_a_package(
    image: dict[str, bytes], listed: dict[str, dict[str, Any]]
) -> None:
    data = image[BUNDLE]
    table = marshal.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
    parts = [each["value"].split() for each in listed[BUNDLE]["properties"]]
    modules = sorted(name for _, *names in parts for name in names)
    assert modules == sorted(name for name, entry in table.items() if not isinstance(entry, str))
    of = {name: ref for ref, *names in parts for name in names}
    assert of["gcs.agent"] == "sources:gcs"
    assert of["msgspec"].startswith("pkg:pypi/msgspec@")
    assert of["asyncio.base_events"].startswith("pkg:deb/debian/libpython3.11-stdlib@")


def test_the_c_library_linked_into_a_program_is_listed(
    components: list[dict[str, Any]], listed: dict[str, dict[str, Any]]
) -> None:
    (part,) = listed["/usr/lib/gcs/bin/init"]["properties"]
    assert part["value"].startswith("pkg:deb/debian/musl-dev@")
    assert part["value"] in {component["bom-ref"] for component in components}
