"""The JSON documents of images (OCI image specification 1.1, Docker's image specification 1.2)."""

from typing import Annotated, Final

import msgspec

_TYPES: Final = "application/vnd."
INDEX_TYPES: Final = (
    _TYPES + "oci.image.index.v1+json",
    _TYPES + "docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    _TYPES + "oci.image.manifest.v1+json",
    _TYPES + "docker.distribution.manifest.v2+json",
)
CONFIG_TYPES: Final = (
    _TYPES + "oci.image.config.v1+json",
    _TYPES + "docker.container.image.v1+json",
)
#: Layers that are plain tar archives once decompressed.
LAYER_TYPES: Final = frozenset(
    [
        *(
            f"{_TYPES}oci.image.layer.{kind}v1.tar{compression}"
            for kind in ("", "nondistributable.")
            for compression in ("", "+gzip", "+zstd")
        ),
        *(
            f"{_TYPES}docker.image.rootfs.{kind}.tar{compression}"
            for kind in ("diff", "foreign.diff")
            for compression in ("", ".gzip", ".zstd")
        ),
    ]
)
#: Where exporters put an image's name: the tag alone, or all of it.
NAME_ANNOTATIONS: Final = (
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
)

Size = Annotated[int, msgspec.Meta(ge=0)]


class Platform(msgspec.Struct):
    """For which machines an image is."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, rename="camel"):
    """A reference to a blob."""

    digest: str
    size: Size
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, rename="camel"):
    """A list of manifests."""

    manifests: list[Descriptor]


class Manifest(msgspec.Struct, rename="camel"):
    """Configuration and layers of an image, lowest layer first."""

    config: Descriptor
    layers: list[Descriptor]


class DockerImage(msgspec.Struct, rename="pascal"):
    """An entry of ``manifest.json`` of ``docker save``; files by name."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


class ProcessConfig(msgspec.Struct, rename="pascal"):
    """How an image wants to be run."""

    user: str = ""
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str = ""
    stop_signal: str = ""


class RootFs(msgspec.Struct):
    """Digests of the layers as uncompressed archives."""

    diff_ids: list[str] = []


class ImageDocument(msgspec.Struct):
    """An image's configuration."""

    architecture: str = ""
    os: str = ""
    config: ProcessConfig | None = None
    rootfs: RootFs = msgspec.field(default_factory=RootFs)
