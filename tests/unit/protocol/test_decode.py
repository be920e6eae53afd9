"""JSON is read by the rules of Go (spec 1.2, 1.5)."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from gcs.protocol.decode import MAX_VALUES, canonical, convert, decode, decode_any
from gcs.protocol.errors import InvalidJsonError
from gcs.protocol.hresult import HResult
from gcs.protocol.message import MessageBase, NegotiateProtocol
from gcs.protocol.oci import Specification
from gcs.protocol.requests import (
    ContainerExecuteProcess,
    ContainerModifySettings,
    ContainerResizeConsole,
    ContainerSettings,
    ContainerSignalProcess,
    ContainerWaitForProcess,
    ProcessParameters,
)
from gcs.protocol.settings import CombinedLayers, MappedVirtualDisk, NetworkAdapter

#: Four threads at a time decode to a type, with types inside, that nobody has used before.
FIRST_USES = """
import sys, threading, msgspec
from gcs.protocol.decode import convert

sys.setswitchinterval(1e-6)
for _ in range(300):
    fields = [(f"f{i}", "int | None", None) for i in range(30)]
    inner = [msgspec.defstruct("Inner", fields) for _ in range(4)]
    parts = [(f"f{i}", kind | None, None) for i, kind in enumerate(inner)]
    outer = msgspec.defstruct("Outer", parts)
    together = threading.Barrier(4)
    def use():
        together.wait()
        assert convert({"f1": {"f3": 3}}, outer, "it").f1.f3 == 3
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

TYPES: list[type[msgspec.Struct]] = [
    MessageBase,
    NegotiateProtocol,
    ContainerSettings,
    ContainerExecuteProcess,
    ContainerModifySettings,
    ProcessParameters,
    MappedVirtualDisk,
    CombinedLayers,
    NetworkAdapter,
    Specification,
]


def test_keys_match_without_regard_to_case() -> None:
    body = decode(b'{"containerid":"a","ACTIVITYID":"b"}', MessageBase, "body")
    assert (body.container_id, body.activity_id) == ("a", "b")


def test_the_last_of_two_spellings_wins() -> None:
    assert decode(b'{"ContainerId":"a","containerID":"b"}', MessageBase, "body").container_id == "b"


def test_unknown_keys_and_white_space_are_ignored() -> None:
    body = decode(b' {"Future":{"a":[1,2]},"ContainerId":"a"}\n', MessageBase, "body")
    assert body.container_id == "a"


@pytest.mark.parametrize("target", TYPES)
def test_null_is_the_same_as_absence(target: type[msgspec.Struct]) -> None:
    nothing = decode(b"{}", target, "body")
    nulls = json.dumps(dict.fromkeys(target.__struct_encode_fields__)).encode()
    assert decode(nulls, target, "body") == nothing
    assert decode(b"null", target, "body") == nothing


def test_null_inside_of_lists_and_maps() -> None:
    parameters = decode(
        b'{"CommandArgs":["a",null],"Environment":{"A":null,"B":"b"}}', ProcessParameters, "p"
    )
    assert parameters.command_args == ["a", ""]
    assert parameters.environment == {"A": "", "B": "b"}
    layers = decode(b'{"Layers":[null,{"Path":"/a"}]}', CombinedLayers, "layers")
    assert [layer.path for layer in layers.layers] == ["", "/a"]


@pytest.mark.parametrize(
    ("target", "field", "good", "bad"),
    [
        (ContainerWaitForProcess, "ProcessId", [0, 0xFFFFFFFF], [-1, 1 << 32, 1.5, "1", True, []]),
        (ContainerResizeConsole, "Height", [0, 0xFFFF], [-1, 1 << 16, "x"]),
        (NegotiateProtocol, "MinimumVersion", [4], [1 << 32, 1 << 70, -4]),
        (MappedVirtualDisk, "Lun", [0, 255], [256, -1]),
        (MappedVirtualDisk, "ReadOnly", [True], [0, "true"]),
        (MappedVirtualDisk, "Options", [[], ["ro"]], ["ro", [1], {}]),
        (MessageBase, "ContainerId", ["x"], [5, [], {}]),
        (MessageBase, "otsc", [{"traceparent": "x"}], ["x", {"a": 1}]),
    ],
)
def test_types_and_ranges(
    target: type[msgspec.Struct], field: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        decode(json.dumps({field: value}).encode(), target, "body")
    for value in bad:
        with pytest.raises(InvalidJsonError) as caught:
            decode(json.dumps({field: value}).encode(), target, "the body")
        assert caught.value.hresult == HResult.INVALID_JSON
        assert "the body" in str(caught.value)


def test_signals_of_32_bits() -> None:
    body = b'{"Options":{"Signal":2147483647}}'
    assert decode(body, ContainerSignalProcess, "body").options.signal == 0x7FFFFFFF
    with pytest.raises(InvalidJsonError):
        decode(b'{"Options":{"Signal":2147483648}}', ContainerSignalProcess, "body")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b" ",
        b"{",
        b"{}{}",
        b"nope",
        b"\x00",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[1,]",
        b"\xff",
    ],
)
def test_what_is_no_json(document: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        decode(document, MessageBase, "body")


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"a",', b"0,"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, bytes.decode])
def test_documents_that_would_not_fit_into_memory(
    unit: bytes, kind: Callable[[bytes], bytes]
) -> None:
    document = b'{"ContainerId":[' + unit * MAX_VALUES + b"0]}"
    with pytest.raises(InvalidJsonError, match="more than"):
        decode_any(kind(document), "body")


def test_long_texts_are_no_many_values() -> None:
    document = b'{"ContainerId":"' + b"a" * (8 << 20) + b'"}'
    assert len(decode(document, MessageBase, "body").container_id) == 8 << 20


def test_invalid_utf8_becomes_the_replacement_character() -> None:
    body = decode(b'{"ContainerId":"a\xff\xfeb"}', MessageBase, "body")
    assert body.container_id == "a\ufffd\ufffdb"
    assert decode_any(bytearray(b'"\xff"'), "text") == "\ufffd"
    assert decode_any(memoryview(b'"\xff"'), "text") == "\ufffd"


def test_keys_that_are_not_known_survive_in_what_is_handed_on() -> None:
    document = {"Process": {"Args": ["a"], "newMember": 1}, "annotations": None, "Future": {"X": 1}}
    assert canonical(document, Specification) == {
        "process": {"args": ["a"], "newMember": 1},
        "Future": {"X": 1},
    }


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                sorted({name for target in TYPES for name in target.__struct_encode_fields__})
            )
            | st.text(max_size=8),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(document=_json, target=st.sampled_from(TYPES))
def test_any_json_is_converted_or_refused(document: Any, target: type[msgspec.Struct]) -> None:
    with contextlib.suppress(InvalidJsonError):
        assert isinstance(convert(document, target, "body"), target)


@given(data=st.binary(max_size=200), target=st.sampled_from(TYPES))
def test_any_bytes_are_decoded_or_refused(data: bytes, target: type[msgspec.Struct]) -> None:
    with contextlib.suppress(InvalidJsonError):
        assert isinstance(decode(data, target, "body"), target)


def test_threads_may_use_a_type_first_at_the_same_time() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USES], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
