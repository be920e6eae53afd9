"""The list of an image's files: written, read again, and what a foreign base tells."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts.image import foreign_base, sbom
from scripts.image.origin import Component, Contained, Origin, component, debian_package
from scripts.image.tree import Tree, regular, symlink

if TYPE_CHECKING:
    from pathlib import Path

CONTROL = {"Package": "libc6", "Version": "1:2.3+x~y", "Architecture": "amd64", "Source": "glibc"}
LIBC = debian_package(CONTROL, "a" * 64)
OURS = component("sources", "gcs", "0" * 40)


def tree_of(**files: str) -> Tree:
    tree = Tree()
    for name, text in files.items():
        tree.put(name.replace("__", "/"), regular(text.encode()))
    return tree


@pytest.fixture
def listed() -> Tree:
    tree = tree_of(lib="library", ours="text")
    tree.nodes["lib"].origin = Origin(LIBC)
    tree.nodes["ours"].origin = Origin(OURS, "compiled", (Contained(LIBC, "one two"),))
    tree.put(sbom.PATH, regular(b"", origin=Origin(OURS)))
    sbom.embed(tree, "image", "1", 1_700_000_000)
    return tree


def origins(tree: Tree) -> dict[str, Origin | None]:
    return {path: node.origin for path, node in tree if node.content and path != sbom.PATH}


def test_it_is_valid_and_names_packages_by_url(listed: Tree) -> None:
    text = listed.nodes[sbom.PATH].read().decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert LIBC.ref == (
        "pkg:deb/debian/libc6@1%3A2.3%2Bx~y?arch=amd64&distro=debian-12&upstream=glibc"
    )
    assert {each["bom-ref"] for each in document["components"]} == {LIBC.ref, OURS.ref}


def test_files_get_back_the_origins_that_were_listed(listed: Tree) -> None:
    before = origins(listed)
    for node in listed.nodes.values():
        node.origin = None
    sbom.attach(listed)
    assert origins(listed) == before
    for path, origin in before.items():
        found = listed.nodes[path].origin
        assert origin is not None
        assert found is not None
        assert found.component.record == origin.component.record


def test_a_file_that_was_changed_since_gets_none(listed: Tree) -> None:
    listed.put("lib", regular(b"another library"))
    for node in listed.nodes.values():
        node.origin = None
    sbom.attach(listed)
    assert listed.nodes["lib"].origin is None
    assert listed.nodes["ours"].origin is not None


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '{"components":[{"name":"no reference"}]}', '{"components":7}']
)
def test_a_list_of_another_form_tells_nothing(text: str) -> None:
    tree = tree_of(lib="library")
    tree.put(sbom.PATH, regular(text.encode()))
    sbom.attach(tree)
    assert origins(tree) == {"lib": None}


class TestForeignBase:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        path = tmp_path / "mine.tar"
        path.write_bytes(b"archive")
        return path

    def owners(self, tree: Tree, archive: Path) -> dict[str, str]:
        foreign_base.assign(tree, archive)
        return {
            path: node.origin.component.ref
            for path, node in tree
            if node.origin is not None and not path.startswith(("var/", "lib/apk/", "etc/"))
        }

    def test_dpkg(self, archive: Path) -> None:
        status = (
            "Package: libc6\nArchitecture: amd64\nVersion: 2.3-1\nDescription: C\n more: text\n\n"
            "Package: coreutils\nArchitecture: amd64\nVersion: 9\n"
        )
        tree = tree_of(
            etc__os_release='ID=ubuntu\nVERSION_ID="24.04"\n',
            var__lib__dpkg__status=status,
            usr__lib__libc="library",
            usr__bin__ls="program",
            usr__local__mine="program",
        )
        tree.put("etc/os-release", tree.nodes.pop("etc/os_release"))
        # Lists name files as they were before /lib and /bin became links.
        tree.put("var/lib/dpkg/info/libc6:amd64.list", regular(b"/.\n/lib\n/lib/libc\n"))
        tree.put("var/lib/dpkg/info/coreutils.list", regular(b"/bin/ls\n/bin/gone\n"))
        tree.put("lib", symlink("usr/lib"))
        tree.put("bin", symlink("usr/bin"))
        assert self.owners(tree, archive) == {
            "usr/lib/libc": "pkg:deb/ubuntu/libc6@2.3-1?arch=amd64&distro=ubuntu-24.04",
            "usr/bin/ls": "pkg:deb/ubuntu/coreutils@9?arch=amd64&distro=ubuntu-24.04",
            "usr/local/mine": "base:mine.tar",
        }

    def test_dpkg_of_a_distroless_image(self, archive: Path) -> None:
        tree = tree_of(usr__bin__tool="program")
        folder = "var/lib/dpkg/status.d"
        tree.put(f"{folder}/tool", regular(b"Package: tool\nVersion: 1\nArchitecture: arm64\n"))
        tree.put(f"{folder}/tool.md5sums", regular(b"d41d8cd98f00b204e98  usr/bin/tool\n"))
        owners = self.owners(tree, archive)
        assert owners["usr/bin/tool"] == "pkg:deb/debian/tool@1?arch=arm64"

    def test_apk(self, archive: Path) -> None:
        installed = (
            "C:x\nP:busybox\nV:1.36-r2\nA:x86_64\nF:bin\nR:busybox\nF:\nR:top\n\nP:musl\nV:2\n"
        )
        tree = tree_of(lib__apk__db__installed=installed, bin__busybox="x", top="y", other="z")
        owners = self.owners(tree, archive)
        assert owners["bin/busybox"] == "pkg:apk/alpine/busybox@1.36-r2?arch=x86_64"
        assert owners["top"] == owners["bin/busybox"]
        assert owners["other"] == "base:mine.tar"

    def test_an_archive_that_tells_nothing(self, archive: Path) -> None:
        tree = tree_of(file="text")
        foreign_base.assign(tree, archive)
        origin = tree.nodes["file"].origin
        assert origin is not None
        digest = hashlib.sha256(b"archive").hexdigest()
        expected: list[dict[str, Any]] = [{"alg": "SHA-256", "content": digest}]
        assert origin.component == Component("base:mine.tar", {})
        assert origin.component.record["hashes"] == expected
