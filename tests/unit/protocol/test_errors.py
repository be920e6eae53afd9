"""Which HRESULT and which text a host gets for an error (spec 1.9)."""

from __future__ import annotations

import errno
import os

import pytest

from gcs.protocol import errors
from gcs.protocol.errors import GcsError, InvalidStateError, RemoteError, error_text, hresult_of
from gcs.protocol.hresult import HResult, describe, from_wire, to_wire
from gcs.protocol.responses import encode, error_response


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (ValueError("x"), 0x80004005),
        (OSError(errno.ENOENT, "x"), 0x80004005),
        (GcsError("x"), 0x80004005),
        (GcsError("x", hresult=0x80070005), 0x80070005),
        (errors.NotImplementedByAgentError("x"), 0x80004001),
        (errors.NotFoundError("x"), 0x80070490),
        (errors.InvalidArgumentError("x"), 0x80070057),
        (errors.WaitTimeoutError("x"), 0xC0370109),
        (errors.UnsupportedProtocolVersionError("x"), 0xC037010C),
        (errors.InvalidJsonError("x"), 0xC037010D),
        (errors.SystemNotFoundError("x"), 0xC037010E),
        (errors.SystemAlreadyExistsError("x"), 0xC037010F),
        (errors.SystemAlreadyStoppedError("x"), 0xC0370110),
        (InvalidStateError("x"), 0x80370105),
        # The outermost one counts, however deep it is.
        (chained(ValueError("x"), InvalidStateError("y")), 0x80370105),
        (chained(GcsError("x"), InvalidStateError("y")), 0x80004005),
        (chained(errors.NotFoundError("x"), InvalidStateError("y")), 0x80070490),
    ],
)
def test_the_result_of_an_error(error: Exception, result: int) -> None:
    assert hresult_of(error) == result
    assert from_wire(to_wire(result)) == result


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert hresult_of(first) == HResult.FAIL


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (GcsError("container x is gone"), "container x is gone"),
        (ValueError("odd"), "ValueError: odd"),
        (ValueError(), "ValueError"),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/x"), "No such file or directory: '/x'"),
        (GcsError("half \ud800"), "half ?"),
    ],
)
def test_the_text_of_an_error(error: Exception, text: str) -> None:
    assert error_text(error) == text


def test_an_error_response() -> None:
    body = encode(error_response(errors.SystemNotFoundError("container x does not exist")))
    assert body == (
        b'{"Result":-1070137074,"ErrorMessage":"container x does not exist","ErrorRecords":['
        b'{"Result":-1070137074,"Message":"container x does not exist","ModuleName":"gcs",'
        b'"FileName":"","Line":4294967295}]}'
    )


def test_results_for_people() -> None:
    assert describe(0xC037010E) == "0xc037010e (SYSTEM_NOT_FOUND)"
    assert describe(0x80070005) == "0x80070005"
    assert str(RemoteError("no", hresult=0x80004005)) == "no [HRESULT 0x80004005 (FAIL)]"


@pytest.mark.parametrize(
    ("unsigned", "signed"),
    [(0, 0), (0x80370105, -2143878907), (0xC037010E, -1070137074), (0xFFFFFFFF, -1)],
)
def test_results_on_the_wire_are_signed(unsigned: int, signed: int) -> None:
    assert to_wire(unsigned) == signed
    assert from_wire(signed) == unsigned
