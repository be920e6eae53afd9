"""What mount(2) gets for an overlay, and which way is taken; the kernel's half is functional."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gcs.linux.mount import MS_BIND, MS_RDONLY, MS_REMOUNT
from gcs.storage import overlay

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS = ["/layer1", "/layer2"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Calls of mount(2), on a kernel that takes layers in one string only."""
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr(overlay, "mount", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(overlay, "_appends_layers", False)
    return made


def test_one_string_of_options(calls: list[tuple[object, ...]]) -> None:
    overlay.mount_overlay("/root", LAYERS, "/upper", "/work")
    options = "lowerdir=/layer1:/layer2,upperdir=/upper,workdir=/work"
    assert calls == [("overlay", "/root", "overlay", 0, options)]


def test_read_only_without_upper_and_work(calls: list[tuple[object, ...]]) -> None:
    overlay.mount_overlay("/root", LAYERS, "", "")
    assert calls == [("overlay", "/root", "overlay", MS_RDONLY, "lowerdir=/layer1:/layer2")]


def test_a_single_layer_is_bound(calls: list[tuple[object, ...]]) -> None:
    overlay.mount_overlay("/root", LAYERS[:1], "", "")
    assert calls == [
        ("/layer1", "/root", "", MS_BIND),
        ("none", "/root", "", MS_REMOUNT | MS_BIND | MS_RDONLY),
    ]


@pytest.mark.parametrize(
    ("layers", "appends", "way"),
    [
        (LAYERS, True, "mount_by_context"),
        (LAYERS, False, "mount_by_string"),
        (["/a:b", "/c"], False, "mount_by_descriptors"),
        (["/a,b", "/c"], False, "mount_by_descriptors"),
        (["/a\\b", "/c"], False, "mount_by_descriptors"),
        ([f"/{'x' * 200}/{number}" for number in range(30)], False, "mount_by_descriptors"),
    ],
)
def test_which_way(
    monkeypatch: pytest.MonkeyPatch, layers: list[str], appends: bool, way: str
) -> None:
    taken = []

    def record(name: str) -> Callable[..., None]:
        return lambda *_: taken.append(name)

    for name in ("mount_by_context", "mount_by_string", "mount_by_descriptors"):
        monkeypatch.setattr(overlay, name, record(name))
    monkeypatch.setattr(overlay, "_appends_layers", appends)
    overlay.mount_overlay("/root", layers, "", "")
    assert taken == [way]
