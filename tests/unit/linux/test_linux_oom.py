"""Who is killed when memory runs out: scores of this process, its children, and helpers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gcs.linux import oom
from gcs.linux.ancestors import ancestors, executable

#: Prints the scores of this process and of children. Lower ones need a capability; it is the same.
PROTECTED = """
import subprocess
from gcs.linux import oom
show = ["cat", "/proc/self/oom_score_adj"]
def own():
    return int(open("/proc/self/oom_score_adj").read())
def child():
    return int(subprocess.run(show, capture_output=True, check=True).stdout)
print(child())
oom.protect_this_process(500)
print(own(), child())
with oom.unprotected(), oom.unprotected():
    print(own(), child())
    oom.protect_this_process(400)
    print(own())
print(own())
try:
    with oom.unprotected():
        raise ValueError
except ValueError:
    print(own())
print(int(oom.run_helper(show, limit=60).stdout), own())
"""


def test_children_of_a_protected_process_are_not() -> None:
    # In a process of its own, which ends protected.
    done = subprocess.run(
        [sys.executable, "-c", PROTECTED], capture_output=True, text=True, check=True
    )
    before = Path("/proc/self/oom_score_adj").read_text().strip()
    words = [before, "500 500", "0 0", "0", "400", "400", "0 400"]
    assert done.stdout.splitlines() == words


def test_a_process_that_is_not_protected_is_left_alone() -> None:
    before = Path("/proc/self/oom_score_adj").read_text()
    with oom.unprotected():
        assert Path("/proc/self/oom_score_adj").read_text() == before


def test_blocks_of_several_threads() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with oom.unprotected():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with oom.unprotected():
        leave.set()
        thread.join()


def test_a_process_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(FileNotFoundError, match=r"set to 5.*oom_score_adj"):
        oom.set_score(process.pid, 5)


def test_a_helper_reads_and_writes() -> None:
    done = oom.run_helper(["sh", "-c", "cat; echo bad >&2; exit 3"], limit=60, stdin=b"in\n")
    assert (done.returncode, done.stdout) == (3, b"in\nbad\n")


def test_a_helper_that_takes_too_long_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        oom.run_helper(["sh", "-c", "exec sleep 1000"], limit=0.1)


def test_a_helper_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError):
        oom.run_helper(["/nowhere/program"], limit=60)


def test_ancestors() -> None:
    mine = ancestors(os.getpid())
    assert mine[0] == os.getppid()
    assert 1 in mine
    assert ancestors(1) == []
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert ancestors(child.pid) == [os.getpid(), *mine]
        assert executable(child.pid).endswith(("cat", "busybox", "coreutils"))
    assert ancestors(child.pid) == []
    assert executable(child.pid) == ""
