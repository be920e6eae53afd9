"""Images stay, byte by byte, what was compared with the reference's output for these archives."""

from __future__ import annotations

import hashlib
import io
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tar2ext4 import convert, root_digest
from tests.support.tar_archives import archive
from tests.support.tar_random import random_archive

if TYPE_CHECKING:
    from pathlib import Path

DIGESTS = {
    "empty": "a623b87bf0f4115924e5e1fd33e274770e2a0287bc660b8cd383029bff89ac4a",
    "sizes": "59ef879f2105f5e1d2590d0b1427e2e2157ae43532fd35826419e056da3541f1",
    "symlinks": "e6845cdb0556499c688a3f6b953262dd93d6b174a2d1ddc2eee3d60cda802384",
    "devices": "7ba72c1ca7ccfd8c75fd10e8b107adc1aaeb074e28bb4f17f8880ffc5ef7aa07",
    "owners_and_times": "84b50709b83d242361a76d2a628a08b02bf8da68adb256ef87dfc8fac4d76578",
    "names": "fe2e3ac50008182d9f848091f5c2b97bbda9583a7bf83b93b4abb31c76e64fe1",
    "links": "308d3ad1d03e3cb6a560a9c64908d4cf0705b5ac37a0c103ed79d2fa1047b1bb",
    "whiteouts": "c29ca2d3c7815bd553be68fbd886b21612acf3f8d190804018302331c3691f5f",
    "attributes": "05b41d2767c00e77da9b7a1a2d0fc6776a154eb4183b77f0e6bf4c3573c4fa4c",
    "replaced": "1e2cb5290710ece85e376697903f4be116e2c79b3fdd18d114987842b527d81f",
    "sparse_files": "0da245254764e7a9305ef6ac82dbba6e493fbc82ddfdc87b8fa1f5e52b15d1cb",
    "global_header": "0be953df300348a70a139d23dfe3322b1c8d8d20a466bb268a505a9ea9915a1d",
    "many_files": "fc5e382af929b86bb9efa85967517a22f6c7c6fc95e76e4d457685eb35d74fd4",
    "many_directories": "5aa280f2aaf92d00de10ce522593e70bc787969fd4e457e723747927ed8a3be6",
}


UUID = uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF)

#: Archive, options, and the digest of the reference's image with the same UUIDs in it.
WITH_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    (
        "sizes",
        {"inline_data": True},
        "ddcb2a29ad8bed587a2fce22dc5611bb22fa4b403bb72197e6cac47f4d93db94",
    ),
    (
        "attributes",
        {"inline_data": True},
        "4bbb6f77c6eeed9523c18e824b160fa93739d415b8941fc1831ff21b19a75c5d",
    ),
    (
        "names",
        {"convert_backslash": True},
        "88398962fd0b124268281d973a38eca801b33f2ea660c9316a6bb875624708ce",
    ),
    (
        "whiteouts",
        {"convert_whiteout": True, "convert_backslash": True},
        "5492718e07bb9f8d25a8993e7923f336d46ceb5b5b11180b90f4294f2d9cd212",
    ),
    (
        "links",
        {"append_vhd_footer": True, "vhd_uuid": UUID},
        "a3c4ed2ac7551ae5aff115eee2a10d4d74055d132ccfd4837691e7efa2caf286",
    ),
    (
        "many_files",
        {"append_dm_verity": True, "verity_uuid": UUID},
        "c73b4c991aa671b2f8683553dbfc30cd4b306f7c71cd1e0cd4dc5e34ae42023b",
    ),
    (
        "sizes",
        {
            "convert_whiteout": True,
            "append_dm_verity": True,
            "append_vhd_footer": True,
            "verity_uuid": UUID,
            "vhd_uuid": UUID,
        },
        "d762f44c3fbdc18d4438bf2962e55e068ce2d15cc922b0c6dff8e0a842c08406",
    ),
]

#: What a security policy has for a layer.
ROOT_DIGESTS = {
    "empty": "8b4842f06982817534a75bcf71865213b09dfa8313229c384e5201dadbd75e25",
    "sizes": "7ba9e18a3e031c638db1c0bb16989a58a8002a515b57cf2d443daa723f3b75a6",
    "whiteouts": "e4ba9bc96084546b3158c821ce0e302869927a7c52c0df82c634790d0010f741",
    "many_files": "5a827f912691b97c9d587e222e9577d37480386ffc126b671ecca904dc44078b",
}

#: Random archives, by their seeds.
RANDOM = {
    1: "d5ec66a0dca8a36f2b00c39efc252c3e88391616a384b88168c583fb514fb31f",
    2: "f7110762d4c2e73d3de0abefe61d9e18cba0217dc24bf31cf83a158e74bc8a0b",
    3: "9ec5edc0e4f691f9c5621607097eced86993842cdc38db1ddbcfe42328747927",
    4: "d459eb309b08f456c652dd3122788ccb611745bc6053a4173918ebf4772ed417",
    5: "0ad349a0652ed7ec25acf2e6c10428510a95ce86f199c6f9777c73b9979cb022",
    7: "b85a08e1f69dd3d3f7f232eca405e6a4543a977876e7fb2f4ef037f61965aa7a",
    8: "18f7fb5619ad379e401293f92cd85770b44b330288fc46a44f8e40b4f9cfea6e",
    9: "ceaeaca926ac761936b09ca4f8ff49a6d3fb81c11918ff3bb93b2984a985855b",
    10: "1d4ba3b1aee4b02ece00ca5c910b0c4ecad9b5f198b5f0174b730e166dbc1cb2",
    12: "dc98bfd70014c6a4750240b59328398d72a8dbe45dcd959c782e0703bcad8dac",
    13: "427a3d200b942c176051eb4987dcf07d7e38a524fbb9ef0f2f256779d1009af1",
    14: "409e6329b69f7828d6ca94a03db211bc795cb559eb0c3580b86f597a53f3eaa0",
}


def image_digest(data: bytes, directory: Path, **options: Any) -> str:
    image = directory / "out.img"
    convert(io.BytesIO(data), image, **options)
    return hashlib.sha256(image.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", DIGESTS)
def test_images_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    digest = image_digest(archive(name), tmp_path, convert_whiteout=name == "whiteouts")
    assert digest == DIGESTS[name]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    WITH_OPTIONS,
    ids=[f"{name}-{'-'.join(options)}" for name, options, _ in WITH_OPTIONS],
)
def test_options_change_images_as_those_of_the_reference(
    name: str, options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert image_digest(archive(name), tmp_path, **options) == expected


@pytest.mark.parametrize("name", ROOT_DIGESTS)
def test_root_digests_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    assert root_digest(io.BytesIO(archive(name)), directory=tmp_path) == ROOT_DIGESTS[name]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", RANDOM)
def test_random_archives_give_the_images_of_the_reference(seed: int, tmp_path: Path) -> None:
    digest = image_digest(random_archive(seed), tmp_path, convert_whiteout=True)
    assert digest == RANDOM[seed]
