"""What every task and thread of the agent is doing."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType, FrameType

#: Where coroutines, asynchronous generators and generators keep their frame, and what they await.
_KINDS = (("cr_frame", "cr_await"), ("ag_frame", "ag_await"), ("gi_frame", "gi_yieldfrom"))


def dump_stacks(loop: asyncio.AbstractEventLoop, limit: int = 256 * 1024) -> str:
    """Return the stacks as text, innermost call last; alike ones once, with their number.

    Can be called from any thread.

    Args:
        loop: Whose tasks.
        limit: About how many characters to produce at most.
    """
    tasks = asyncio.all_tasks(loop)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = sys._current_frames()  # noqa: SLF001 - documented; there is no other way
    parts = [f"{len(tasks)} tasks, {len(threads)} threads\n"]
    for identifier, frame in threads.items():
        parts.append(f"thread {names.get(identifier, identifier)}:\n{_thread_stack(frame)}")
    size = sum(map(len, parts))
    for stack, alike in _group(tasks).items():
        title = f"task {alike[0]}" if len(alike) == 1 else f"{len(alike)} tasks ({alike[0]}, …)"
        parts.append(f"{title}:\n{stack}")
        size += len(parts[-1])
        if size > limit:
            parts.append("… (more stacks cut)\n")
            break
    return "\n".join(parts)


def _group(tasks: set[asyncio.Task[Any]]) -> dict[str, list[str]]:
    """Return the names of tasks by their stack."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        groups.setdefault(_task_stack(task), []).append(task.get_name())
    return groups


def _task_stack(task: asyncio.Task[Any]) -> str:
    lines: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        kind = next((kind for kind in _KINDS if hasattr(awaited, kind[0])), None)
        if kind is None:
            # Without its address, or no two stacks were alike.
            lines.append(f"  waiting for a {type(awaited).__qualname__}\n")
            break
        frame, following = (getattr(awaited, name) for name in kind)
        if frame is not None:
            lines.append(_line(frame.f_code, frame.f_lineno))
        awaited = following
    return "".join(lines)


def _thread_stack(frame: FrameType | None) -> str:
    lines: list[str] = []
    while frame is not None:
        lines.append(_line(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return "".join(reversed(lines))


def _line(code: CodeType, line: int | None) -> str:
    return f"  {code.co_filename}:{line} {code.co_qualname}\n"
