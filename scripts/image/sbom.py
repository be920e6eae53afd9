"""The list of what is in an image: each file, and the package it comes from, as CycloneDX JSON.

Components are packages; the files that come from one are components in it. An archive that holds
such a list tells by it where its files come from, when it becomes a part of another one.
"""

from __future__ import annotations

import hashlib
import json
import stat
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

from scripts.image.origin import Component, Contained, Origin, Record
from scripts.image.tree import Node, Tree, regular

PATH = "info/sbom.cdx.json"
"""Where it is in an image."""

VERSION = "1.6"
_CONTAINS = "gcs:contains"


def embed(tree: Tree, name: str, version: str, epoch: int) -> bytes:
    """Put a tree's list into it, and return the list.

    Parameters:
        tree: whose regular files all have an origin; the list's place is taken already.
        name: what the tree is.
        version: which one it is.
        epoch: time it is of, in seconds.
    """
    text = document(tree, name, version, epoch)
    tree.put(PATH, regular(text, origin=tree.nodes[PATH].origin))
    return text


def document(tree: Tree, name: str, version: str, epoch: int) -> bytes:
    """Return the list of a tree; parameters as for `embed`."""
    components: dict[str, Record] = {}
    files: dict[str, list[Record]] = {}
    for path, node in tree:
        if not stat.S_ISREG(node.mode):
            continue
        origin = node.origin
        if origin is None:
            raise AssertionError(f"/{path}: has no origin")
        for each in (origin.component, *(part.component for part in origin.contains)):
            components.setdefault(each.ref, each.record)
        files.setdefault(origin.component.ref, []).append(_file(path, node, origin))
    listed = []
    for ref in sorted(components):
        inside = {"components": files[ref]} if ref in files else {}
        listed.append({**components[ref], **inside})
    head = {
        "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "component": {
            "type": "operating-system",
            "bom-ref": "image",
            "name": name,
            "version": version,
        },
    }
    return _serialise(head, listed)


def _serialise(head: Record, components: list[Record]) -> bytes:
    digest = hashlib.sha256(_json([head, components])).hexdigest()
    return (
        _json(
            {
                "bomFormat": "CycloneDX",
                "specVersion": VERSION,
                "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, digest).urn,
                "version": 1,
                "metadata": head,
                "components": components,
            }
        )
        + b"\n"
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def _file(path: str, node: Node, origin: Origin) -> Record:
    name = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    record: Record = {"type": "file", "name": f"/{name}"}
    if path != PATH:  # which can't have its own checksum
        record["hashes"] = [{"alg": "SHA-256", "content": sha256_of(node)}]
    if origin.note:
        record["pedigree"] = {"notes": origin.note}
    if origin.contains:
        record["properties"] = [
            {"name": _CONTAINS, "value": f"{each.component.ref} {each.detail}".rstrip()}
            for each in origin.contains
        ]
    return record


def sha256_of(node: Node) -> str:
    """Return the SHA256 of a node's content, in hexadecimal."""
    return hashlib.sha256(node.read()).hexdigest()


class _Hash(msgspec.Struct):
    alg: str
    content: str


class _Property(msgspec.Struct):
    name: str
    value: str


class _Pedigree(msgspec.Struct):
    notes: str = ""


class _File(msgspec.Struct):
    name: str
    hashes: list[_Hash] = []
    pedigree: _Pedigree = msgspec.field(default_factory=_Pedigree)
    properties: list[_Property] = []


class _Component(msgspec.Struct):
    ref: str = msgspec.field(name="bom-ref")
    components: list[_File] = []


class _Document(msgspec.Struct):
    components: list[_Component]


def attach(tree: Tree) -> None:
    """Give files the origins that a list in the tree tells, as far as their content is the listed.

    A list of another form tells nothing.
    """
    node = tree.nodes.get(PATH)
    if node is None or not stat.S_ISREG(node.mode):
        return
    try:
        text = node.read()
        found = msgspec.json.decode(text, type=_Document)
        records: list[Record] = json.loads(text)["components"]
    except (msgspec.MsgspecError, ValueError):
        return
    components = {}
    for record in records:
        record.pop("components", None)
        components[record["bom-ref"]] = Component(record["bom-ref"], record)
    for each in found.components:
        for file in each.components:
            _attach_file(tree, components, components[each.ref], file)


def _attach_file(
    tree: Tree, components: dict[str, Component], component: Component, file: _File
) -> None:
    node = tree.nodes.get(file.name.removeprefix("/"))
    if node is None or not stat.S_ISREG(node.mode):
        return
    if file.hashes and sha256_of(node) != file.hashes[0].content:
        return
    contains = []
    for each in file.properties:
        ref, _, detail = each.value.partition(" ")
        if each.name == _CONTAINS and ref in components:
            contains.append(Contained(components[ref], detail))
    node.origin = Origin(component, file.pedigree.notes, tuple(contains))
