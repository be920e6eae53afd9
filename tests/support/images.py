"""Container images made on the spot: archives of `docker save`, old and new, and OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

OCI: Final = "application/vnd.oci.image."
COMPRESSORS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "": lambda data: data,
    "+gzip": lambda data: gzip.compress(data, mtime=0),
    "+zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def member(
    name: str, data: bytes | str | None = None, *, kind: bytes = tarfile.REGTYPE, **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of an archive; fields are those of TarInfo."""
    content = data.encode() if isinstance(data, str) else data or b""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return an uncompressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def layer(files: dict[str, str | bytes]) -> bytes:
    """Return a layer's archive with files of these contents; names of folders end with /."""
    return archive(
        member(name.rstrip("/"), kind=tarfile.DIRTYPE) if name.endswith("/") else member(name, data)
        for name, data in files.items()
    )


def digest(data: bytes) -> str:
    """Return the digest as images write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class ImageFiles:
    """The files of an OCI layout, by name.

    Attributes:
        files: Their contents.
        entries: Of index.json.
    """

    files: dict[str, bytes] = field(
        default_factory=lambda: {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    )
    entries: list[dict[str, Any]] = field(default_factory=list)

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Add a blob and return its descriptor."""
        name = digest(data)
        self.files["blobs/" + name.replace(":", "/")] = data
        return {"mediaType": media_type, "digest": name, "size": len(data), **more}

    def image(
        self,
        layers: list[bytes],
        *,
        name: str | None = None,
        compression: str = "+gzip",
        architecture: str = "amd64",
        listed: bool = True,
        **config: Any,
    ) -> dict[str, Any]:
        """Add an image, lowest layer first, and return its manifest's descriptor.

        name: In the index.
        compression: Of its layers: a key of COMPRESSORS.
        architecture: In Go's words.
        listed: Whether it is in index.json itself.
        config: Entrypoint, Cmd, Env, User and so on.
        """
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), OCI + "config.v1+json"),
            "layers": [
                self.blob(COMPRESSORS[compression](data), f"{OCI}layer.v1.tar{compression}")
                for data in layers
            ],
        }
        entry = self.blob(
            json.dumps(manifest).encode(),
            OCI + "manifest.v1+json",
            platform={"os": "linux", "architecture": architecture},
        )
        if name is not None:
            entry["annotations"] = {
                "io.containerd.image.name": f"docker.io/library/{name}",
                "org.opencontainers.image.ref.name": name.partition(":")[2],
            }
        if listed:
            self.entries.append(entry)
        return entry

    def index(self, entries: list[dict[str, Any]], **more: Any) -> None:
        """Add an index of several manifests to the index."""
        data = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
        self.entries.append(self.blob(data, OCI + "index.v1+json", **more))

    def all_files(self) -> dict[str, bytes]:
        """Return everything, index.json included."""
        document = {"schemaVersion": 2, "manifests": self.entries}
        return {**self.files, "index.json": json.dumps(document).encode()}

    def write_directory(self, path: Path) -> Path:
        """Write a layout directory."""
        for name, data in self.all_files().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def write_archive(self, path: Path, *, mode: str = "w", docker: bool = False) -> Path:
        """Write an archive.

        mode: Of tarfile, for example w:gz.
        docker: With a manifest.json, as newer versions of Docker have it.
        """
        files = self.all_files()
        if docker:
            files["manifest.json"] = b"[]"
        write_archive(path, files, mode)
        return path


def docker_archive(
    path: Path, images: dict[str, list[bytes]], *, mode: str = "w", **config: Any
) -> Path:
    """Write an archive of `docker save` as versions before 25 did: one folder for each layer.

    images: Layers by names, lowest first; a layer that is there again is a link to the first.
    config: Entrypoint, Cmd, Env, User and so on.
    """
    members: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    entries = []
    for name, layers in images.items():
        names = []
        first: dict[bytes, str] = {}
        for number, data in enumerate(layers):
            folder = hashlib.sha256(data + bytes([number])).hexdigest()
            place = f"{folder}/layer.tar"
            if data in first:
                link = f"../{first[data]}"
                members[place] = member(place, kind=tarfile.SYMTYPE, linkname=link)
            else:
                first[data] = place
                members[place] = member(place, data)
            names.append(place)
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        text = json.dumps(document).encode()
        place = digest(text).removeprefix("sha256:") + ".json"
        members[place] = member(place, text)
        entries.append({"Config": place, "RepoTags": [name], "Layers": names})
    members["manifest.json"] = member("manifest.json", json.dumps(entries))
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members.values():
            tar.addfile(info, io.BytesIO(content))
    return path


def write_archive(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    """Write an archive of plain files."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info, content = member(name, data)
            tar.addfile(info, io.BytesIO(content))
