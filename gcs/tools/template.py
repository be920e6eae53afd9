r"""Templates of hooks: the language of Go's `text/template`, as far as arguments need it.

Text with actions in it::

    --pid={{pid}}
    {{annotation "io.example.mode" | printf "--mode=%s"}}
    {{- if eq (annotation "debug") "true"}} --debug{{else}} --quiet{{end -}}

An action is a pipeline: commands separated by `|`, of which each gets the result of the one before
it as its last argument.  A command is a function with arguments, or a value: "a string" with
escapes, `one without`, a number, `true`, `false`, a pipeline in parentheses.  `{{- ` and ` -}}`
remove the white space before and after, `{{/* … */}}` is a comment.  There are `if`, `else if`,
`else` and `end`, and the functions below besides those of the caller.  Variables, fields, loops and
templates within templates are refused: there is no data to use them on.
"""

from __future__ import annotations

from gcs.tools.template_words import TemplateError, Word, split_template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Value = str | int | bool
    Function = Callable[..., Value]

__all__ = ["TemplateError", "render"]

_CLOSERS = ("else", "end")
_REFUSED = frozenset(("range", "with", "define", "template", "block", "break", "continue"))
_PRINTED = {"s": str, "d": int, "t": bool}


def render(text: str, functions: dict[str, Function]) -> str:
    """Fill in a template.

    functions: by the names that templates call them by; they may raise TemplateError.

    Raises TemplateError naming the template, for one that is wrong or a function that fails.
    """
    if "{{" not in text:
        return text
    try:
        return _Template(text, {**_FUNCTIONS, **functions}).render()
    except TemplateError as error:
        raise TemplateError(f"template {text!r}: {error}") from error


class _Template:
    """One template, run while it is read; what a condition leaves out is read only."""

    def __init__(self, text: str, functions: dict[str, Function]) -> None:
        self._parts = split_template(text)
        self._functions = functions
        self._at = 0

    def render(self) -> str:
        result, closer = self._run(shown=True)
        if closer:
            raise TemplateError(f"unexpected {{{{{closer[0].text}}}}}")
        return result

    def _run(self, *, shown: bool) -> tuple[str, list[Word]]:
        """Go on until an `else` or `end` of somebody else, which is returned, or to the end."""
        out = []
        while self._at < len(self._parts):
            part = self._parts[self._at]
            self._at += 1
            if isinstance(part, str):
                out.append(part)
                continue
            first = part[0]
            name = first.text if first.kind == "name" else ""
            if name in _CLOSERS:
                return "".join(out), part
            if name == "if":
                out.append(self._condition(part[1:], shown=shown))
            elif name in _REFUSED:
                raise TemplateError(f"{{{{{name}}}}} is not supported in hooks")
            else:
                value = self._evaluate(part, shown=shown)
                out.append(_shown(value))
        return "".join(out), []

    def _condition(self, words: list[Word], *, shown: bool) -> str:
        holds = _truth(self._evaluate(words, shown=shown))
        yes, closer = self._run(shown=shown and holds)
        no = ""
        if closer and closer[0].text == "else":
            rest = closer[1:]
            if rest and rest[0].text == "if" and rest[0].kind == "name":
                no = self._condition(rest[1:], shown=shown and not holds)
                return yes if holds else no
            if rest:
                raise TemplateError("{{else}} takes nothing but another if")
            no, closer = self._run(shown=shown and not holds)
        if not closer:
            raise TemplateError("{{if}} without {{end}}")
        if closer[0].text != "end" or len(closer) > 1:
            raise TemplateError(f"unexpected {{{{{' '.join(word.text for word in closer)}}}}}")
        return yes if holds else no

    def _evaluate(self, words: list[Word], *, shown: bool) -> Value:
        value, rest = self._pipeline(words, shown=shown)
        if rest:
            raise TemplateError(f"unexpected {rest[0].text!r}")
        return value

    def _pipeline(self, words: list[Word], *, shown: bool) -> tuple[Value, list[Word]]:
        """Run a pipeline; what follows it, a closing parenthesis at most, is returned."""
        final: list[Value] = []
        while True:
            value, words = self._command(words, final, shown=shown)
            if not words or words[0].kind != "|":
                return value, words
            words, final = words[1:], [value]

    def _command(
        self, words: list[Word], final: list[Value], *, shown: bool
    ) -> tuple[Value, list[Word]]:
        if not words or words[0].kind in (")", "|"):
            raise TemplateError("a value is missing")
        function = None
        name = words[0].text
        if words[0].kind == "name" and name not in ("true", "false"):
            function = self._functions.get(name)
            if function is None:
                raise TemplateError(f"function {name!r} not defined")
            words = words[1:]
        arguments = []
        while words and words[0].kind not in (")", "|"):
            value, words = self._operand(words, shown=shown)
            arguments.append(value)
        if function is None:
            if len(arguments) > 1 or final:
                raise TemplateError(f"{name!r} is no function and takes no arguments")
            return arguments[0], words
        return (_call(name, function, arguments + final) if shown else ""), words

    def _operand(self, words: list[Word], *, shown: bool) -> tuple[Value, list[Word]]:
        word, rest = words[0], words[1:]
        if word.kind == "(":
            value, rest = self._pipeline(rest, shown=shown)
            if not rest or rest[0].kind != ")":
                raise TemplateError("a closing parenthesis is missing")
            return value, rest[1:]
        if word.kind == "name":
            if word.text in ("true", "false"):
                return word.text == "true", rest
            value, _ = self._command([word], [], shown=shown)
            return value, rest
        return word.value, rest


def _call(name: str, function: Function, arguments: list[Value]) -> Value:
    try:
        return function(*arguments)
    except TypeError:
        raise TemplateError(f"function {name!r} does not take these arguments") from None


def _truth(value: Value) -> bool:
    return bool(value)


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print(*values: Value) -> str:
    """Join values, with spaces between those of which neither is a string, as Go does."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += _shown(value)
    return out


def _printf(form: str, *values: Value) -> str:
    """Format with the verbs %s, %d, %t, %v, %q and %%, without widths."""
    pieces = form.split("%")
    out, rest = pieces[0], list(values)
    index = 1
    while index < len(pieces):
        verb, text = pieces[index][:1], pieces[index][1:]
        if not verb and index + 1 < len(pieces):  # %%
            index += 1
            out += "%" + pieces[index]
        elif not verb or verb not in "sdtvq" or not rest:
            raise TemplateError(f"printf {form!r}: %{verb} has no value, or is not supported")
        else:
            out += _formatted(verb, rest.pop(0)) + text
        index += 1
    if rest:
        raise TemplateError(f"printf {form!r}: more values than verbs")
    return out


def _formatted(verb: str, value: Value) -> str:
    if verb == "q" and isinstance(value, str):
        from gcs.tools.say import quoted

        return quoted(value)
    if verb != "v" and type(value) is not _PRINTED.get(verb):
        raise TemplateError(f"printf: %{verb} of {value!r}")
    return _shown(value)


def _length(value: Value) -> int:
    if not isinstance(value, str):
        raise TemplateError(f"len of {value!r}")
    return len(value.encode(errors="surrogateescape"))


def _same_type(first: Value, second: Value) -> None:
    if type(first) is not type(second):
        raise TemplateError(f"incompatible types for comparison: {first!r} and {second!r}")


def _equal(first: Value, second: Value, *others: Value) -> bool:
    for other in (second, *others):
        _same_type(first, other)
    return first in (second, *others)


def _less(first: Value, second: Value) -> bool:
    _same_type(first, second)
    if isinstance(first, bool):
        raise TemplateError("true and false have no order")
    return first < second  # type: ignore[operator]  # of one type


def _and(first: Value, *others: Value) -> Value:
    values = (first, *others)
    return next((value for value in values if not _truth(value)), values[-1])


def _or(first: Value, *others: Value) -> Value:
    values = (first, *others)
    return next((value for value in values if _truth(value)), values[-1])


_FUNCTIONS: dict[str, Function] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not _truth(value),
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": _less,
    "le": lambda first, second: not _less(second, first),
    "gt": lambda first, second: _less(second, first),
    "ge": lambda first, second: not _less(first, second),
    "len": _length,
    "print": _print,
    "println": lambda *values: " ".join(map(_shown, values)) + "\n",
    "printf": _printf,
}
