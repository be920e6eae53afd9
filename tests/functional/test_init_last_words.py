"""What a host reads about an agent that died without a word (gcs/init/reaper.c, the relay)."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.logs import decode_json
from tests.functional.init_support import Background, Machine, Port, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# An agent that has set up its log as far as its supervisor is concerned, and then ends.
AGENT = """#!/usr/lib/gcs/bin/python3 -IS
import os
from gcs.init import supervisor
reader, writer = os.pipe()
log = os.dup(2)
os.dup2(writer, 1)
os.dup2(writer, 2)
os.write(log, b'{{"level":"info","msg":"GCS started"}}\\n')
supervisor.leave(log, reader, "{form}")
os.write(2, b'Fatal "error"\\n\\xff\\x00 in C\\n')
{end}
"""
LAST = 'Fatal "error"\n'


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


class Host:
    """A host with a log port, and a machine whose agent dies."""

    def __init__(self, machine: Machine, end: str, form: str = "json") -> None:
        machine.install("/bin/gcs", AGENT.format(end=end, form=form))
        self._machine = machine
        self._port = Port(machine.shared / "port", 109)

    def run(self, *options: str, init: tuple[str, ...] = ()) -> tuple[int, list[bytes]]:
        """Boot; the status of process 1, and the lines on the port."""

        def read() -> bytes:
            with self._port.accept() as connection:
                return read_all(connection)

        log = Background(read)
        result = self._machine.run(
            "/init",
            *init,
            *("/bin/vsockexec", "-t", "unix:/shared/port", *options, "-e", "109", "/bin/gcs"),
        )
        self._port.close()
        data = log.finish()
        assert isinstance(data, bytes)
        return result.returncode, data.splitlines()


@pytest.mark.parametrize("options", [(), ("-r",)], ids=["direct", "relayed"])
@pytest.mark.parametrize(
    ("end", "status", "message", "field"),
    [
        ("os.kill(os.getpid(), 9)", 137, "killed by signal 9", ("signal", 9)),
        ("os.abort()", 134, "killed by signal 6", ("signal", 6)),
        ("os._exit(7)", 7, "exited with status 7", ("status", 7)),
    ],
)
def test_the_end_of_the_agent_is_an_entry(
    machine: Machine,
    options: tuple[str, ...],
    end: str,
    status: int,
    message: str,
    field: tuple[str, int],
) -> None:
    code, lines = Host(machine, end).run(*options)
    assert code == status
    first, last = (decode_json(line) for line in lines)
    assert first.message == "GCS started"
    assert last.level == "fatal"
    assert last.message.startswith(f"gcs {message}")
    assert last.fields[field[0]] == field[1]
    assert last.fields["output"].startswith(LAST)
    assert last.fields["output"].endswith(" in C\n")
    assert last.time > 1_700_000_000 * 10**9


@pytest.mark.parametrize("options", [(), ("-r",)], ids=["direct", "relayed"])
def test_an_end_in_peace_is_none(machine: Machine, options: tuple[str, ...]) -> None:
    code, lines = Host(machine, "os._exit(0)").run(*options)
    assert code == 0
    assert [decode_json(line).message for line in lines] == ["GCS started"]


@pytest.mark.parametrize("options", [(), ("-r",)], ids=["direct", "relayed"])
def test_a_log_that_is_text_stays_text(machine: Machine, options: tuple[str, ...]) -> None:
    code, lines = Host(machine, "os._exit(7)", form="text").run(*options)
    assert code == 7
    assert b'level=fatal msg="gcs exited with status 7' in lines[-1]


def test_much_output_is_cut_to_its_end(machine: Machine) -> None:
    end = "os.write(2, b'x' * 40000 + b'\\nthe end')\nos._exit(7)"
    code, lines = Host(machine, end).run()
    assert code == 7
    output = decode_json(lines[-1]).fields["output"]
    assert len(output) == 16 * 1024
    assert output.endswith("x\nthe end")


def test_beside_a_debug_shell_the_machine_goes_on(machine: Machine) -> None:
    machine.install("/bin/shell", "#!/bin/sh\nwhile [ ! -e /shared/told ]; do :; done\nexit 4\n")
    machine.install("/bin/gcs", AGENT.format(end="os._exit(7)", form="json"))
    port = Port(machine.shared / "port", 109)

    def read() -> bytes:
        with port.accept() as connection:
            data = read_all(connection)
        (machine.shared / "told").touch()
        return data

    log = Background(read)
    arguments = ("-d", "/bin/shell", "/bin/vsockexec", "-t", "unix:/shared/port", "-e", "109")
    assert machine.run("/init", *arguments, "/bin/gcs").returncode == 4
    port.close()
    data = log.finish()
    assert isinstance(data, bytes)
    assert decode_json(data.splitlines()[-1]).fields["status"] == 7


def test_a_host_that_does_not_read_does_not_keep_the_machine(machine: Machine) -> None:
    # Whole lines, until nothing more fits.
    fill = (
        "os.set_blocking(log, False)\n"
        "try:\n"
        "    while os.write(log, b'{}\\n' * 1000): pass\n"
        "except BlockingIOError: pass\n"
        "os._exit(7)"
    )
    machine.install("/bin/gcs", AGENT.format(end=fill.replace("{}", "{{}}"), form="json"))
    port = Port(machine.shared / "port", 109)
    connections = Background(port.accept)
    transport = ("-t", "unix:/shared/port")
    result = machine.run("/init", "/bin/vsockexec", *transport, "-e", "109", "/bin/gcs")
    assert result.returncode == 7
    connection = connections.finish()
    connection.close()  # type: ignore[attr-defined]
    port.close()


def test_a_missing_program_for_waiting_ends_the_machine(machine: Machine) -> None:
    machine.install("/start", '#!/bin/sh\nrm /usr/lib/gcs/bin/init\nexec /init "$@"\n')
    result = machine.run("/start", "true")
    assert result.returncode == 2
    assert "init: /usr/lib/gcs/bin/init: exec: No such file" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("1", "2")])
def test_usage(machine: Machine, arguments: tuple[str, ...]) -> None:
    program = str(machine.shared.parent / "reaper")
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("usage: init PRIMARY AGENT CHANNEL")
