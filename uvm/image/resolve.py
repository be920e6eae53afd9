"""Finding the image that is meant: by name, by platform, and down to its layers."""

import platform
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from gcs.protocol.decode import looked_at
from uvm.errors import UvmError
from uvm.image.documents import (
    CONFIG_TYPES,
    INDEX_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPES,
    NAME_ANNOTATIONS,
    Descriptor,
    DockerImage,
    ImageDocument,
    Index,
    Manifest,
    Platform,
    ProcessConfig,
)
from uvm.image.store import DOCKER_MANIFEST, OCI_INDEX, OCI_LAYOUT, Store
from uvm.image.streams import HashingReader, split_digest

#: Go's names of machines, which images use.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_DOCUMENT_LIMIT: Final = 16 << 20
_NESTING: Final = 4
_ATTESTATION: Final = "vnd.docker.reference.type"
#: Where a name without a registry belongs.
_DEFAULT_PREFIXES: Final = ("docker.io/library/", "docker.io/", "")

T = TypeVar("T")


@dataclass(frozen=True)
class LayerFile:
    """A layer in a store.

    Attributes:
        name: The file.
        diff_id: Digest of the uncompressed archive.
        digest: Digest of the file; ``None``: unknown.
    """

    name: str
    diff_id: str
    digest: str | None


@dataclass(frozen=True)
class Image:
    """An image in a store.

    Attributes:
        config: How it wants to be run.
        layers: Lowest first.
    """

    config: ProcessConfig
    layers: tuple[LayerFile, ...]


def host_platform() -> Platform:
    """Return the platform of the VMs of this machine."""
    machine = platform.machine()
    return Platform(_ARCHITECTURES.get(machine, machine), "linux")


def find_image(store: Store, reference: str | None) -> Image:
    """Find an image in a store, and check all of it that is cheap to check.

    Args:
        store: Its files.
        reference: ``name:tag``, ``name`` or ``tag``, as the archive has it; ``None``: the only one.

    Raises:
        UvmError: There is no such image, or it can't be run here, or a part of it is missing.
    """
    finder = _Finder(store)
    if store.has(OCI_LAYOUT) and store.has(OCI_INDEX):
        return finder.from_oci(reference)
    return finder.from_docker(reference)


class _Finder:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._label = store.label

    def from_oci(self, reference: str | None) -> Image:
        index = self._decode(OCI_INDEX, self._read(OCI_INDEX), Index)
        found = [entry for entry in index.manifests if not _is_attestation(entry)]
        if reference is not None:
            named = {name for entry in found for name in _names(entry)}
            found = [entry for entry in found if _matches(_names(entry), reference)]
            if not found:
                raise self._no_such_image(reference, named)
        return self._from_manifest(self._choose(found))

    def _choose(self, entries: list[Descriptor], depth: int = 0) -> Descriptor:
        """Return the manifest for this platform; indexes are followed."""
        if depth > _NESTING:
            raise UvmError(f"{self._label}: indexes are nested more than {_NESTING} deep")
        host = host_platform()
        fitting = [
            entry
            for entry in entries
            if entry.platform is None
            or (entry.platform.os, entry.platform.architecture) == (host.os, host.architecture)
        ]
        if not fitting:
            others = ", ".join(sorted({str(entry.platform) for entry in entries if entry.platform}))
            there = f"only for {others}" if others else "none at all"
            raise UvmError(f"{self._label} has no image for {host}: {there}")
        # The same image can be there under several names.
        by_digest = {entry.digest: entry for entry in fitting}
        if len(by_digest) > 1:
            by_digest = self._only_present(by_digest)
        if len(by_digest) > 1:
            names = sorted({name for entry in fitting for name in _names(entry)[:1]})
            raise self._several_images(names or sorted(by_digest))
        (chosen,) = by_digest.values()
        if chosen.media_type in INDEX_TYPES:
            inner = self._decode(chosen.digest, self._read_blob(chosen), Index)
            listed = [entry for entry in inner.manifests if not _is_attestation(entry)]
            return self._choose(listed, depth + 1)
        if chosen.media_type and chosen.media_type not in MANIFEST_TYPES:
            raise UvmError(
                f"{self._label} holds no image: {chosen.digest} is of type {chosen.media_type}"
            )
        return chosen

    def _only_present(self, entries: dict[str, Descriptor]) -> dict[str, Descriptor]:
        """Leave out manifests that were not exported, unless none is left."""
        present = {
            digest: entry
            for digest, entry in entries.items()
            if self._store.has(self._blob(entry.digest))
        }
        return present or entries

    def _from_manifest(self, descriptor: Descriptor) -> Image:
        manifest = self._decode(descriptor.digest, self._read_blob(descriptor), Manifest)
        kind = manifest.config.media_type
        if kind not in CONFIG_TYPES:
            raise UvmError(
                f"{self._label}: {descriptor.digest} is no container image, "
                f"its configuration is of type {kind or 'unknown'}"
            )
        text = self._read_blob(manifest.config)
        document = self._document(manifest.config.digest, text, len(manifest.layers))
        layers = []
        for number, layer in enumerate(manifest.layers):
            self._check_type(number, layer.media_type)
            layers.append(
                LayerFile(self._blob(layer.digest), document.rootfs.diff_ids[number], layer.digest)
            )
        return self._image(document, layers)

    def from_docker(self, reference: str | None) -> Image:
        images = self._decode(DOCKER_MANIFEST, self._read(DOCKER_MANIFEST), list[DockerImage])
        found = images
        if reference is not None:
            found = [entry for entry in images if _matches(entry.repo_tags or [], reference)]
            if not found:
                named = {name for entry in images for name in entry.repo_tags or []}
                raise self._no_such_image(reference, named)
        if not found:
            raise UvmError(f"{self._label} holds no image")
        if len({entry.config for entry in found}) > 1:
            raise self._several_images(
                sorted((entry.repo_tags or [entry.config])[0] for entry in found)
            )
        names = found[0].layers or []
        config = found[0].config
        document = self._document(config, self._read(config), len(names))
        layers = [
            LayerFile(name, diff_id, None)
            for name, diff_id in zip(names, document.rootfs.diff_ids, strict=True)
        ]
        return self._image(document, layers)

    def _image(self, document: ImageDocument, layers: list[LayerFile]) -> Image:
        host = host_platform()
        there = Platform(document.architecture, document.os)
        if there != host:
            raise UvmError(f"{self._label} holds an image for {there}; the VM is {host}")
        if not layers:
            raise UvmError(f"{self._label}: the image has no layers")
        for layer in layers:
            split_digest(layer.diff_id, self._label)
            if not self._store.has(layer.name):
                raise UvmError(f"{self._label}: layer {layer.digest or layer.name} is missing")
        return Image(document.config or ProcessConfig(), tuple(layers))

    def _document(self, name: str, data: bytes, layers: int) -> ImageDocument:
        document = self._decode(name, data, ImageDocument)
        if len(document.rootfs.diff_ids) != layers:
            raise UvmError(
                f"{self._label}: the manifest has {layers} layers, "
                f"the configuration {len(document.rootfs.diff_ids)}"
            )
        return document

    def _check_type(self, number: int, kind: str) -> None:
        if kind.endswith("+encrypted"):
            raise UvmError(
                f"{self._label}: layer {number + 1} is encrypted ({kind}): decrypt the image first"
            )
        if kind not in LAYER_TYPES:
            raise UvmError(f"{self._label}: layer {number + 1} is of an unknown type, {kind!r}")

    def _blob(self, digest: str) -> str:
        algorithm, digits = split_digest(digest, self._label)
        return f"blobs/{algorithm}/{digits}"

    def _read_blob(self, descriptor: Descriptor) -> bytes:
        return self._read(self._blob(descriptor.digest), descriptor.digest)

    def _read(self, name: str, digest: str | None = None) -> bytes:
        if not self._store.has(name):
            raise UvmError(f"{self._label}: {digest or name} is missing")
        with self._store.open(name) as file:
            reader = HashingReader(file, digest, f"{self._label}: {name}", lambda: None)
            data = reader.read(_DOCUMENT_LIMIT) or b""
            if len(data) == _DOCUMENT_LIMIT:
                raise UvmError(f"{self._label}: {name} is too big for a document")
            reader.finish()
        return data

    def _decode(self, name: str, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=looked_at(kind))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UvmError(f"{self._label}: can't read {name}: {error}") from error

    def _no_such_image(self, reference: str, names: set[str]) -> UvmError:
        there = ", ".join(sorted(names)) or "its images have no names"
        return UvmError(f"{self._label} has no image {reference!r}: {there}")

    def _several_images(self, names: list[str]) -> UvmError:
        return UvmError(
            f"{self._label} holds several images: "
            f"choose one by {self._label}#NAME of {', '.join(names)}"
        )


def _is_attestation(entry: Descriptor) -> bool:
    """Tell whether an entry says where an image is from, instead of being one."""
    if _ATTESTATION in (entry.annotations or {}):
        return True
    return entry.platform is not None and entry.platform.os == "unknown"


def _names(entry: Descriptor) -> list[str]:
    annotations = entry.annotations or {}
    return [annotations[key] for key in NAME_ANNOTATIONS if key in annotations]


def _matches(names: list[str], reference: str) -> bool:
    wanted = {prefix + reference for prefix in _DEFAULT_PREFIXES}
    wanted |= {f"{name}:latest" for name in wanted}
    return any(name in wanted or name.rpartition(":")[2] == reference for name in names)
