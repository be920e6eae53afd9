"""The list of modules the guest imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from scripts.image import imports
from scripts.image.errors import BuildError

GUEST = Path(imports.__file__).parent / "guest"


def package(folder: Path, **sources: str) -> Path:
    root = folder / "agent"
    (root / "sub").mkdir(parents=True)
    for name, text in {"__init__": "", "sub/__init__": "", **sources}.items():
        (root / f"{name.replace('__sub__', 'sub/')}.py").write_text(dedent(text))
    return root


def test_modules_are_named_by_their_place(tmp_path: Path) -> None:
    found = imports.modules_of(package(tmp_path, one="", __sub__two=""))
    assert sorted(found) == ["agent", "agent.one", "agent.sub", "agent.sub.two"]


def test_imports_anywhere_count_but_those_for_the_type_checker(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        one="""
            from __future__ import annotations
            import os.path as path
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                import inspect
            else:
                import array
            def late():
                with open("x"):
                    from . import sub
                    from .sub.two import name
        """,
        __sub__two="from .. import one\nfrom ..one import *\n",
    )
    names = set(imports.imported_names(imports.modules_of(root)))
    assert {"os.path", "array", "agent.sub", "agent.sub.two", "agent.sub.two.name"} <= names
    assert {"agent.one", "typing"} <= names
    assert "inspect" not in names


def test_an_import_is_optional_where_its_failure_is_caught_each_time(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        one="""
            try:
                import ssl
                import array
            except ImportError:
                ssl = None
            try:
                import zlib
            except ValueError:
                pass
        """,
        two="def late():\n    import array\n",
    )
    found = imports.imported_names(imports.modules_of(root))
    assert found["ssl"].optional
    assert not found["zlib"].optional
    assert found["array"] == imports.Imported(f"{root}/two.py:2", optional=False)


@pytest.mark.parametrize("call", ["__import__(name)", "importlib.import_module(name)"])
def test_an_import_by_a_computed_name_is_refused(tmp_path: Path, call: str) -> None:
    root = package(tmp_path, bad=f"def late(name):\n    {call}\n")
    with pytest.raises(BuildError, match=r"agent/bad\.py:2: \w+\(\) imports a module by name"):
        imports.imported_names(imports.modules_of(root))


def test_a_source_that_does_not_parse_is_named_with_its_line(tmp_path: Path) -> None:
    root = package(tmp_path, bad="x = 1\nthis is no python\n")
    with pytest.raises(BuildError, match=r"agent/bad\.py:2: "):
        imports.imported_names(imports.modules_of(root))


def trace(folder: Path, left_out: list[str], *names: str) -> subprocess.CompletedProcess[str]:
    code = (GUEST / "trace.py").read_text()
    folders = [str(folder / "expressions"), str(folder)]
    command = [sys.executable, "-ISB", "-c", code, *folders, "--", *left_out, "--", *names]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_trace_lists_what_importing_pulls_in(tmp_path: Path) -> None:
    package(tmp_path, one="import agent.sub.two\nname = 1\n", __sub__two="import heapq\n")
    done = trace(tmp_path, [], "agent.one.name")
    found = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert {"agent", "agent.one", "agent.sub", "agent.sub.two", "heapq"} <= found
    assert "decimal" not in found


def test_the_trace_obeys_what_is_left_out(tmp_path: Path) -> None:
    package(tmp_path, one="try:\n    import heapq\nexcept ImportError:\n    heapq = None\n")
    done = trace(tmp_path, ["heapq"], "agent.one")
    assert done.returncode == 0
    assert "heapq" not in done.stdout


def test_the_trace_names_an_import_that_fails(tmp_path: Path) -> None:
    package(tmp_path, one="import no_such_module\n")
    done = trace(tmp_path, [], "agent.one")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last == "import agent.one: ModuleNotFoundError: No module named 'no_such_module'"
