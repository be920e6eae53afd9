"""Images stay, byte by byte, what was compared with the reference's output for these archives."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tar2ext4 import ArchiveError, convert
from tests.support.tar_archives import archive

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


@pytest.mark.parametrize("name", DIGESTS)
def test_images_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    source, image = tmp_path / "in.tar", tmp_path / "out.img"
    source.write_bytes(archive(name))
    convert(source, image, convert_whiteout=name == "whiteouts")
    assert hashlib.sha256(image.read_bytes()).hexdigest() == DIGESTS[name]


def test_a_truncated_archive_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in.tar"
    source.write_bytes(archive("sizes")[:-5000])
    with pytest.raises(ArchiveError, match="ends"):
        convert(source, tmp_path / "out.img")
    assert [path.name for path in tmp_path.iterdir()] == ["in.tar"]
