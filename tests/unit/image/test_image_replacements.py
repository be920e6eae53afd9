"""Modules of the guest that take the place of the standard library's."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import marshal
import re
import socket
import subprocess
import sys
import types
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.image.errors import BuildError
from scripts.image.guest.replacements import asyncio_package
from scripts.image.rewrite import LITERALS, with_literals, with_plain_numbers, without_inspect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GUEST = Path(__file__).parents[3] / "scripts/image/guest"


def test_the_asyncio_package_has_all_names_of_the_original() -> None:
    # Python 3.11 itself forgets TaskGroup in its list.
    assert set(asyncio.__all__) <= set(asyncio_package.__all__)
    for name in asyncio_package.__all__:
        assert getattr(asyncio_package, name) is getattr(asyncio, name)
    for module in asyncio_package._LATER:
        found = getattr(asyncio_package, module)
        assert found is importlib.import_module(f"asyncio.{module}")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = asyncio_package.nothing


@pytest.fixture(scope="module")
def expressions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is noted while some modules are imported."""
    path = tmp_path_factory.mktemp("expressions") / "expressions"
    names = ["string", "logging", "textwrap"]
    script = str(GUEST / "trace.py")
    trace = [sys.executable, "-I", script, str(path), "", "--", "--", *names]
    subprocess.run(trace, check=True, stdout=subprocess.PIPE)
    return path


#: Puts the replacement in its place, as the bundle does, and uses expressions.
USE = """
import json, marshal, sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

class Importer:
    @staticmethod
    def get_code(name):
        assert name == "re._known"
        with open(sys.argv[2], "rb") as file:
            return marshal.load(file)

bundle = type(sys)("bundle")
bundle.IMPORTER = Importer
sys.modules["bundle"] = bundle

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "re._compiler":
            return spec_from_loader(name, SourceFileLoader(name, sys.argv[1]))
        if name == "re._original_compiler":
            from importlib.machinery import PathFinder
            original = PathFinder.find_spec("re._compiler", path)
            return spec_from_loader(name, SourceFileLoader(name, original.origin))

for name in [name for name in sys.modules if name == "re" or name.startswith("re.")]:
    del sys.modules[name]
sys.meta_path.insert(0, Finder)
import re
before = "re._original_compiler" in sys.modules
import logging, string
after = "re._original_compiler" in sys.modules
print(json.dumps([
    before,
    after,
    string.Template("$a ${b} $$").substitute(a=1, b=2),
    (logging.Formatter("%(message)s")._style.validation_pattern.search("%(message)s") is not None),
    re.sub("([a-c]+)x", r"<\\1>", "aabx-cx"),
    re.escape("a.b"),
    re.compile(b"\\xff+", re.I).search(b"a\\xff\\xff").span(),
    "re._original_compiler" in sys.modules,
]))
try:
    re.compile("(")
except re.error as error:
    print(json.dumps(str(error)))
"""


def test_known_expressions_are_not_compiled_again(expressions: Path) -> None:
    files = [str(GUEST / "replacements/re_compiler.py"), str(expressions)]
    command = [sys.executable, "-IS", "-c", USE, *files]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    first, second = (json.loads(line) for line in output.splitlines())
    assert first[:2] == [False, False]
    assert first[2:] == ["1 2 $", True, "<aab>-<c>", "a\\.b", [1, 3], True]
    assert second.startswith("missing ), unterminated subpattern")


def test_noted_expressions_are_the_same_each_time(expressions: Path) -> None:
    magic, table = marshal.loads(expressions.read_bytes())
    assert isinstance(magic, int)
    assert ("", 0) in table
    for (pattern, flags), (again, *_) in table.items():
        assert pattern == again
        assert re.compile(pattern, flags).pattern == pattern
    assert list(table) == sorted(table, key=repr)


# --- rewritten modules ---------------------------------------------------------------------------


def test_the_socket_module_without_enumerations() -> None:
    """What it does stays; its constants and what sockets say about themselves are numbers."""
    file = Path(socket.__file__)
    source = with_plain_numbers(file.read_text(), "socket")
    assert source.count("\n") == file.read_text().count("\n")
    plain = types.ModuleType("plain_socket")
    exec(compile(source, str(file), "exec"), plain.__dict__)
    assert type(plain.AF_UNIX) is int
    assert plain.AF_UNIX == socket.AF_UNIX
    one, other = plain.socketpair()
    with one, other:
        assert (one.family, one.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        one.sendall(b"x")
        assert other.recv(1, plain.MSG_PEEK) == b"x"
    assert plain.AddressFamily(2) == socket.AF_INET


def test_a_module_that_makes_no_enumerations() -> None:
    for source in ("import enum\n", "IntEnum._convert_(name)\n", "x._convert_('a')\n"):
        with pytest.raises(BuildError, match="module: no enumerations are made of constants"):
            with_plain_numbers(source, "module")


def test_coroutine_functions_are_known_without_inspect() -> None:
    file = Path(asyncio.coroutines.__file__)
    source = without_inspect(file.read_text(), "coroutines")
    assert source.startswith(file.read_text().partition("inspect.")[0])
    rewritten = types.ModuleType("rewritten")
    exec(compile(source, str(file), "exec"), rewritten.__dict__)

    class Owner:
        async def coroutine(self) -> None: ...
        def function(self) -> None: ...

    async def generator() -> AsyncIterator[int]:
        yield 1

    owner = Owner()
    for subject in (
        *(owner.coroutine, owner.function, Owner.coroutine, Owner.function, owner, Owner),
        *(partial(owner.coroutine), partial(owner.function), partial(partial(Owner.coroutine), 1)),
        *(generator, print, lambda: None, None, 5),
    ):
        expected = asyncio.iscoroutinefunction(subject)
        assert rewritten.iscoroutinefunction(subject) == expected, subject


def test_a_module_that_asks_inspect_otherwise() -> None:
    for source in ("import inspect\n", "inspect.iscoroutinefunction(func)\ninspect.x\n"):
        with pytest.raises(BuildError, match="module: inspect is not asked"):
            without_inspect(source, "module")


def test_literals_are_what_the_constants_are() -> None:
    for name, literal in LITERALS.items():
        module, _, constant = name.rpartition(".")
        assert getattr(importlib.import_module(module), constant) == ast.literal_eval(literal)


@pytest.mark.parametrize("name", ["base_events", "events", "tasks"])
def test_modules_of_asyncio_take_no_constants_of_others(name: str) -> None:
    file = Path(importlib.import_module(f"asyncio.{name}").__file__ or "")
    source = with_literals(file.read_text(), name)
    assert source.count("\n") == file.read_text().count("\n")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    assert not {ast.unparse(node) for node in nodes} & LITERALS.keys()


def test_a_module_that_takes_no_constants() -> None:
    with pytest.raises(BuildError, match="module: no constants are taken"):
        with_literals("import subprocess\n", "module")
