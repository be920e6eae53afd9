"""How messages of 9P stand on the wire: layouts of fields, derived from annotations.

A message is ``size[4] type[1] tag[2]`` and its fields; numbers are little-endian, a string has its
length in two bytes before it, and need not be text.
"""

import struct
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, NamedTuple, TypeAlias, get_type_hints

import msgspec

#: ``size[4] type[1] tag[2]``
HEADER: Final = struct.Struct("<IBH")
SIZE_FIELD: Final = struct.Struct("<I")
#: Tag of the first message of a session.
NO_TAG: Final = 0xFFFF
#: Most names of one walk (MAXWELEM).
MOST_NAMES: Final = 16

_LENGTH: Final = struct.Struct("<H")
_QID: Final = struct.Struct("<BIQ")

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
#: A string; the names of files are bytes.
Text = Annotated[bytes, "text"]
#: Bytes with their number in four bytes before them.
Data: TypeAlias = Annotated[bytes | bytearray | memoryview, "data"]
#: Strings with their number in two bytes before them.
Texts: TypeAlias = Annotated[Sequence[bytes], "texts"]


class Qid(NamedTuple):
    """What the server knows a file by.

    Attributes:
        type: Kind of the file: :data:`QID_DIRECTORY` and others.
        version: Changes with the content.
        path: Number of the file, unique in a share.
    """

    type: int
    version: int
    path: int


QidField: TypeAlias = Annotated[Qid, "qid"]
Qids: TypeAlias = Annotated[Sequence[Qid], "qids"]

QID_DIRECTORY: Final = 0x80
QID_SYMLINK: Final = 0x02
QID_FILE: Final = 0x00


class MalformedError(Exception):
    """Bytes that are no message. The text says why."""


class Message(msgspec.Struct):
    """A message; its fields are those of the wire, in their order.

    Attributes:
        number: The type on the wire.
    """

    number: ClassVar[int] = 0


def encode(tag: int, message: Message) -> bytes:
    """Return a message as a frame.

    Raises:
        MalformedError: A field does not fit.
    """
    parts = [b""]
    size = HEADER.size
    values = msgspec.structs.astuple(message)
    at = 0
    try:
        for field in layout(type(message)):
            count = field.count
            part = field.encode(values[at : at + count])
            at += count
            parts += part
        size += sum(map(len, parts))
        parts[0] = HEADER.pack(size, message.number, tag)
    except (struct.error, OverflowError) as error:
        raise MalformedError(f"{type(message).__name__}: {error}") from error
    return b"".join(parts)


def decode(kind: type[Message], body: memoryview) -> Message:
    """Return the message of a type whose fields stand in a buffer, exactly.

    Raises:
        MalformedError: It is too short or too long.
    """
    values: list[Any] = []
    at = 0
    try:
        for field in layout(kind):
            at = field.decode(body, at, values)
    except struct.error:
        raise MalformedError(f"{kind.__name__} of {len(body)} bytes is cut short") from None
    if at != len(body):
        raise MalformedError(f"{kind.__name__} has {len(body) - at} bytes too many")
    return kind(*values)


class _Numbers:
    """Neighbouring numbers."""

    def __init__(self, codes: str) -> None:
        self._struct = struct.Struct("<" + codes)
        self.count = len(codes)

    def encode(self, values: tuple[Any, ...]) -> list[bytes]:
        return [self._struct.pack(*values)]

    def decode(self, body: memoryview, at: int, values: list[Any]) -> int:
        values += self._struct.unpack_from(body, at)
        return at + self._struct.size


class _Text:
    count = 1

    def encode(self, values: tuple[Any, ...]) -> list[bytes]:
        return [_LENGTH.pack(len(values[0])), values[0]]

    def decode(self, body: memoryview, at: int, values: list[Any]) -> int:
        (length,) = _LENGTH.unpack_from(body, at)
        text, at = _cut(body, at + _LENGTH.size, length)
        values.append(bytes(text))
        return at


class _Data:
    count = 1

    def encode(self, values: tuple[Any, ...]) -> list[bytes]:
        return [SIZE_FIELD.pack(len(values[0])), values[0]]

    def decode(self, body: memoryview, at: int, values: list[Any]) -> int:
        (length,) = SIZE_FIELD.unpack_from(body, at)
        # Not copied: it is what takes room in a write.
        data, at = _cut(body, at + SIZE_FIELD.size, length)
        values.append(data)
        return at


class _Qid:
    count = 1

    def encode(self, values: tuple[Any, ...]) -> list[bytes]:
        return [_QID.pack(*values[0])]

    def decode(self, body: memoryview, at: int, values: list[Any]) -> int:
        values.append(Qid(*_QID.unpack_from(body, at)))
        return at + _QID.size


class _Many:
    """A number of fields of one kind, with that number in two bytes before them."""

    count = 1

    def __init__(self, of: _Text | _Qid) -> None:
        self._of = of

    def encode(self, values: tuple[Any, ...]) -> list[bytes]:
        parts = [_LENGTH.pack(len(values[0]))]
        for value in values[0]:
            parts += self._of.encode((value,))
        return parts

    def decode(self, body: memoryview, at: int, values: list[Any]) -> int:
        (number,) = _LENGTH.unpack_from(body, at)
        if number > MOST_NAMES:
            raise MalformedError(f"{number} names or files at once, of at most {MOST_NAMES}")
        found: list[Any] = []
        at += _LENGTH.size
        for _ in range(number):
            at = self._of.decode(body, at, found)
        values.append(found)
        return at


_Field: TypeAlias = _Numbers | _Text | _Data | _Qid | _Many

_KINDS: Final[dict[str, _Field]] = {
    "text": _Text(),
    "data": _Data(),
    "qid": _Qid(),
    "texts": _Many(_Text()),
    "qids": _Many(_Qid()),
}
_layouts: Final[dict[type[Message], list[_Field]]] = {}


def layout(kind: type[Message]) -> list[_Field]:
    """Return the fields of a message on the wire; neighbouring numbers are one."""
    known = _layouts.get(kind)
    if known is None:
        hints = get_type_hints(kind, include_extras=True)
        codes = [hints[name].__metadata__[0] for name in kind.__struct_fields__]
        known = _layouts[kind] = _fields(codes)
    return known


def _fields(codes: list[str]) -> list[_Field]:
    fields: list[_Field] = []
    numbers = ""
    for code in (*codes, ""):
        if code and code not in _KINDS:
            numbers += code
            continue
        if numbers:
            fields.append(_Numbers(numbers))
            numbers = ""
        if code:
            fields.append(_KINDS[code])
    return fields


def _cut(body: memoryview, start: int, length: int) -> tuple[memoryview, int]:
    end = start + length
    if end > len(body):
        raise MalformedError(f"a string of {length} bytes, {len(body) - start} of them there")
    return body[start:end], end
