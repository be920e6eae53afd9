"""Splitting a template into text and actions, and actions into words; see `gcs.tools.template`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Value = str | int | bool

_OPEN, _CLOSE = "{{", "}}"
_COMMENT, _COMMENT_END = "/*", "*/"
#: Go's white space in templates.
_BLANK = " \t\r\n"
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
}
_CODE_LENGTHS = {"x": 2, "u": 4, "U": 8}


class TemplateError(Exception):
    """A template is wrong, or can't be filled in; the text says why."""


class Word:
    """A word of an action.

    kind: `name`, `value`, or `(`, `)`, `|`.
    text: as it was written.
    value: of a `value`.
    """

    __slots__ = ("kind", "text", "value")

    def __init__(self, kind: str, text: str, value: Value = "") -> None:
        self.kind = kind
        self.text = text
        self.value = value


def split_template(template: str) -> list[str | list[Word]]:
    """Return texts and the words of actions, by turns; comments and trimmed space left out.

    Raises TemplateError.
    """
    parts: list[str | list[Word]] = []
    at, trim = 0, False
    while True:
        start = template.find(_OPEN, at)
        text = template[at:] if start < 0 else template[at:start]
        text = text.lstrip(_BLANK) if trim else text
        if start < 0:
            parts.append(text)
            return parts
        inner = start + len(_OPEN)
        if template[inner : inner + 1] == "-" and template[inner + 1 : inner + 2] in tuple(_BLANK):
            text, inner = text.rstrip(_BLANK), inner + 2
        parts.append(text)
        words, at, trim = _read_action(template, inner)
        if words is not None:
            parts.append(words)


def _read_action(template: str, at: int) -> tuple[list[Word] | None, int, bool]:
    """Read an action; returns its words (None: a comment), where it ends, and whether to trim."""
    if template.startswith(_COMMENT, at):
        end = template.find(_COMMENT_END, at)
        if end < 0:
            raise TemplateError("unclosed comment")
        closed = _closing(template, end + len(_COMMENT_END))
        if closed is None:
            raise TemplateError("a comment ends before the closing delimiter")
        return None, *closed
    words: list[Word] = []
    while True:
        closed = _closing(template, at)
        if closed is not None:
            if not words:
                raise TemplateError("a value is missing")
            return words, *closed
        if at >= len(template):
            raise TemplateError("unclosed action")
        if template[at] in _BLANK:
            at += 1
            continue
        word, at = _read_word(template, at)
        words.append(word)


def _closing(template: str, at: int) -> tuple[int, bool] | None:
    """Tell whether the action ends here: where that is, and whether white space after it goes."""
    if template.startswith(_CLOSE, at):
        return at + len(_CLOSE), False
    if template[at : at + 1] in tuple(_BLANK) and template.startswith("-" + _CLOSE, at + 1):
        return at + 1 + len("-" + _CLOSE), True
    return None


def _read_word(template: str, at: int) -> tuple[Word, int]:
    first = template[at]
    if first in "()|":
        return Word(first, first), at + 1
    if first == "`":
        end = template.find("`", at + 1)
        if end < 0:
            raise TemplateError("unterminated raw quoted string")
        return Word("value", template[at : end + 1], template[at + 1 : end]), end + 1
    if first == '"':
        return _read_string(template, at)
    end = at
    while end < len(template) and (template[end].isalnum() or template[end] in "_+-."):
        if end > at and template.startswith("-" + _CLOSE, end):
            break
        end += 1
    text = template[at:end]
    if text and (text.isidentifier()):
        return Word("name", text), end
    return Word("value", text, _number(text or first)), end


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise TemplateError(f"unexpected {text!r}") from None


def _read_string(template: str, at: int) -> tuple[Word, int]:
    out, index = "", at + 1
    while index < len(template) and template[index] not in '"\n':
        character = template[index]
        index += 1
        if character == "\\":
            character, index = _read_escape(template, index)
        out += character
    if template[index : index + 1] != '"':
        raise TemplateError("unterminated quoted string")
    return Word("value", template[at : index + 1], out), index + 1


def _read_escape(template: str, at: int) -> tuple[str, int]:
    letter = template[at : at + 1]
    if letter in _ESCAPES:
        return _ESCAPES[letter], at + 1
    length = _CODE_LENGTHS.get(letter, 0)
    try:
        digits = template[at + 1 : at + 1 + length]
        if not length or len(digits) != length:
            raise ValueError(letter)
        return chr(int(digits, 16)), at + 1 + length
    except (ValueError, OverflowError):
        raise TemplateError(f"invalid escape \\{letter} in a string") from None
