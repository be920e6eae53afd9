"""JSON decoding with the rules of Go's ``encoding/json`` (spec 1.2, 1.5).

Keys match without regard to case, unknown keys are ignored, ``null`` leaves a field at its
default, integers are range-checked; bytes that are no UTF-8 become U+FFFD.
"""

import contextlib
import threading
import types
import typing
from typing import Any, Final, TypeVar

import msgspec

from gcs.protocol.errors import InvalidJsonError

T = TypeVar("T")

#: Most values one document may hold.  As Python objects they take up to fifty times the room of
#: their text: 64 MiB of ``[],[],…`` would end a VM of ordinary size.  Real requests stay below 1 %.
MAX_VALUES: Final = 500_000

#: By type and lower-case key: the key as it is declared, and the type if there is more to fold.
_field_tables: dict[type, dict[str, tuple[str, Any]]] = {}


_looked_at: set[Any] = set()
_looking = threading.Lock()


def looked_at(target: type[T]) -> type[T]:
    """Return a type that msgspec has looked at; to be called before it decodes to the type.

    It looks at classes when they are used first, by Python code among others.  A second thread that
    comes meanwhile would find it half done, and the process would end with a segmentation fault
    (msgspec 0.22).

    Args:
        target: A ``msgspec.Struct`` class, or another type ``msgspec.convert`` knows.
    """
    if target not in _looked_at:
        with _looking, contextlib.suppress(msgspec.ValidationError):
            msgspec.convert(None, target)
        _looked_at.add(target)
    return target


def decode(data: bytes | bytearray | memoryview | str, target: type[T], what: str) -> T:
    """Decode a JSON document.

    Args:
        data: The document.
        target: A ``msgspec.Struct`` class, or another type ``msgspec.convert`` knows.
        what: What the document is, for the error message.

    Raises:
        InvalidJsonError: Not JSON, or a value of the wrong type or range.
    """
    return convert(decode_any(data, what), target, what)


def decode_any(data: bytes | bytearray | memoryview | str, what: str) -> Any:
    """Decode a JSON document to plain Python objects.

    Raises:
        InvalidJsonError: Not JSON, nested too deeply, or of too many values.
    """
    if len(data) > MAX_VALUES and _count_values(data) > MAX_VALUES:
        raise InvalidJsonError(f"{what} has more than {MAX_VALUES} values")
    try:
        try:
            return msgspec.json.decode(data)
        except UnicodeDecodeError:
            return msgspec.json.decode(_replace_invalid_utf8(data))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidJsonError(f"{what} is not valid JSON: {error}") from error


def convert(value: Any, target: type[T], what: str) -> T:
    """Convert plain objects, as :func:`decode_any` returns them, to a type.

    Raises:
        InvalidJsonError: A value of the wrong type or range.
    """
    try:
        return msgspec.convert(_fold(value, target, keep_unknown=False), looked_at(target))
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidJsonError(f"{what} does not fit its schema: {error}") from error


def canonical(value: Any, target: type) -> Any:
    """Return a copy of plain objects with the keys spelt as a struct type declares them.

    Keys the type doesn't know are kept, values are not checked: for documents that are handed on.
    """
    return _fold(value, target, keep_unknown=True)


def _count_values(data: bytes | bytearray | memoryview | str) -> int:
    """Return an upper bound, cheaply: each value but the first needs one of these before it."""
    if isinstance(data, str):
        return data.count(",") + data.count("[") + data.count("{")
    text = bytes(data) if isinstance(data, memoryview) else data
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _replace_invalid_utf8(data: bytes | bytearray | memoryview | str) -> str:
    return data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")


def _fold(value: Any, target: Any, *, keep_unknown: bool) -> Any:
    """Return the value with canonical keys and without nulls, following the type."""
    if typing.get_origin(target) in (types.UnionType, typing.Union):
        if value is None:
            return None
        target = next(arg for arg in typing.get_args(target) if arg is not types.NoneType)
    if isinstance(target, type) and issubclass(target, msgspec.Struct):
        return _fold_struct(value, target, keep_unknown=keep_unknown)
    origin = typing.get_origin(target)
    if origin is list:
        if value is None:
            return []
        if isinstance(value, list):
            (item,) = typing.get_args(target)
            return [_fold_item(entry, item, keep_unknown=keep_unknown) for entry in value]
    elif origin is dict:
        if value is None:
            return {}
        if isinstance(value, dict):
            item = typing.get_args(target)[1]
            return {
                key: _fold_item(entry, item, keep_unknown=keep_unknown)
                for key, entry in value.items()
            }
    return value


def _fold_item(value: Any, target: Any, *, keep_unknown: bool) -> Any:
    if value is None and target is str:
        return ""
    return _fold(value, target, keep_unknown=keep_unknown)


def _fold_struct(value: Any, target: type[msgspec.Struct], *, keep_unknown: bool) -> Any:
    if value is None:
        return {}
    if not isinstance(value, dict):
        return value
    table = _field_tables.get(target) or _build_field_table(target)
    folded: dict[str, Any] = {}
    for key, entry in value.items():
        known = table.get(key.lower())
        if known is None:
            if keep_unknown:
                folded[key] = entry
        elif entry is not None:
            name, kind = known
            folded[name] = entry if kind is None else _fold(entry, kind, keep_unknown=keep_unknown)
    return folded


def _build_field_table(target: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    annotations: dict[str, Any] = {}
    for base in reversed(target.__mro__):
        annotations.update(base.__dict__.get("__annotations__", {}))
    names = zip(target.__struct_fields__, target.__struct_encode_fields__, strict=True)
    table = {encoded.lower(): (encoded, _foldable(annotations[field])) for field, encoded in names}
    _field_tables[target] = table
    return table


def _foldable(target: Any) -> Any:
    """Return the type of a field, or ``None`` where values of it hold no keys and no nulls."""
    kinds = [kind for kind in typing.get_args(target) if kind is not types.NoneType]
    is_union = typing.get_origin(target) in (types.UnionType, typing.Union)
    kind = kinds[0] if is_union else target
    holds_more = typing.get_origin(kind) in (list, dict) or (
        isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    )
    return target if holds_more else None
