"""Agents of the functional tests run with the modules of the image, and what is missing shows."""

from __future__ import annotations

import asyncio
import marshal
import subprocess
import sys
from pathlib import Path
from sysconfig import get_path

import pytest

from scripts.image.prefix import LEFT_OUT
from tests.support import as_in_the_image
from tests.support.fakehost import AgentProcess

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / as_in_the_image.BUNDLE


def without(tmp_path: Path, *names: str) -> Path:
    """Make a table of modules in which some are missing."""
    table = dict.fromkeys(as_in_the_image.carried(str(BUNDLE)), (False, 0, 0))
    for name in names:
        del table[name]
    data = marshal.dumps(table)
    path = tmp_path / "bundle"
    path.write_bytes(len(data).to_bytes(4, "little") + data)
    return path


def command(bundle: Path, *left_out: str) -> as_in_the_image.Command:
    names = ",".join((*LEFT_OUT, *left_out))
    return as_in_the_image.command(
        as_in_the_image.Setting(
            sys.executable, str(bundle), str(REPOSITORY), get_path("platlib"), names
        )
    )


def run(
    given: as_in_the_image.Command, *arguments: str, program: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    words = (*(program or given.program), *(arguments or ("-no-such-flag",)))
    return subprocess.run(words, capture_output=True, text=True, check=False, env=given.environment)


def test_with_all_modules_the_agent_runs() -> None:
    done = run(command(BUNDLE))
    assert done.returncode == 2
    assert as_in_the_image.MARK not in done.stderr
    assert "no-such-flag" in done.stderr


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    done = run(command(without(tmp_path, "msgspec")))
    assert done.returncode == 1
    assert f"{as_in_the_image.MARK}msgspec\n" in done.stderr


async def test_a_missing_module_fails_the_test_that_needed_it(tmp_path: Path) -> None:
    given = command(without(tmp_path, "msgspec"))
    process = await asyncio.create_subprocess_exec(
        *given.program, env=given.environment, stderr=asyncio.subprocess.PIPE
    )
    with pytest.raises(AssertionError, match=r"the image lacks \['msgspec'\]"):
        await AgentProcess(process).ended()


def test_what_is_left_out_on_purpose_is_not_named(tmp_path: Path) -> None:
    done = run(command(without(tmp_path, "msgspec"), "msgspec"))
    assert done.returncode == 1
    assert as_in_the_image.MARK not in done.stderr


def test_programs_that_the_agent_starts_have_the_same_modules(tmp_path: Path) -> None:
    own = (str(Path(as_in_the_image.__file__).with_name("image_python")),)
    code = "import sys, msgspec; print(sys.argv)"
    words = ("-I", "-S", "-c", code, "more")
    done = run(command(BUNDLE), *words, program=own)
    assert (done.stdout, done.stderr) == ("['-c', 'more']\n", "")
    done = run(command(without(tmp_path, "msgspec")), *words, program=own)
    assert f"{as_in_the_image.MARK}msgspec\n" in done.stderr
