"""The image: built by the real script, looked at with other people's tools, and run by chroot."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from gcs.protocol.frame import MessageType, encode_frame
from gcs.protocol.message import UVM_ID
from gcs.time_sync import configuration
from scripts.image import cpio
from tests.functional.image_support import OUT, PYTHON, REPOSITORY, chroot, run, unpack

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.image.tree import Node

COMMANDS = (
    "init",
    "startup.sh",
    "bin/gcs",
    "bin/gcstools",
    "bin/vsockexec",
    "bin/wait-paths",
    "usr/lib/gcs/bin/init",
)
TOOLS = ("bin/generichook", "bin/install-drivers")
LIST_MAPPED_FILES = (
    "print(*sorted({line.split()[5] for line in open('/proc/self/maps') if '/' in line}))"
)


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    """A root with nothing but the delta."""
    return unpack(OUT / "delta.tar.gz", tmp_path / "delta")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one directory in /lib/modules."""
    root = tmp_path_factory.mktemp("modules")
    data = (OUT / "modules.cpio").read_bytes()
    subprocess.run(["cpio", "-idm", "--quiet"], input=data, cwd=root, check=True)
    (folder,) = (root / "lib/modules").iterdir()
    return folder


@pytest.fixture(scope="module")
def listing() -> dict[str, str]:
    """`ls -l` lines of the initrd by name, as cpio prints them."""
    data = gzip.decompress((OUT / "initrd.img").read_bytes())
    done = subprocess.run(["cpio", "-tvn", "--quiet"], input=data, capture_output=True, check=True)
    # A device has two numbers, "major, minor", where others have a size.
    text = done.stdout.decode().replace(", ", ",")
    lines = [
        line.replace(",", ", ", 1).split(maxsplit=9 if line[0] in "bc" else 8)
        for line in text.splitlines()
    ]
    return {line[-1].split(" -> ")[0]: " ".join(line) for line in lines}


@pytest.fixture(scope="module")
def files() -> dict[str, Node]:
    """The regular files of the initrd by path; hard links are the same node."""
    tree = cpio.read(REPOSITORY / "build/initrd.cpio")
    return {path: node for path, node in tree if stat.S_ISREG(node.mode)}


class TestContent:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_our_commands_are_executable(self, listing: dict[str, str], command: str) -> None:
        assert listing[command].startswith("-rwxr-xr-x")

    @pytest.mark.parametrize("tool", TOOLS)
    def test_tools_are_one_program(self, listing: dict[str, str], tool: str) -> None:
        assert listing[tool].endswith(f" {tool} -> gcstools")

    @pytest.mark.parametrize("tool", [*TOOLS, "bin/wait-paths"])
    def test_tools_run(self, delta: Path, tool: str) -> None:
        done = chroot(delta, f"/{tool}")
        assert done.returncode == 1
        assert re.match(r'time="[^"]+" level=(error|fatal) msg=', done.stderr), done.stderr

    def test_the_start_script_runs_init_as_hosts_do(self, tmp_path: Path) -> None:
        root = unpack(OUT / "rootfs.tar.gz", tmp_path / "root")
        (root / "init").unlink()
        (root / "init").write_text('#!/bin/sh\necho "$PATH" "$HOME" "$@"\n')
        (root / "init").chmod(0o755)
        done = chroot(root, "/startup.sh")
        path = "/usr/bin:/usr/local/bin:/bin:/root/bin:/sbin:/usr/sbin:/usr/local/sbin"
        agent = "/bin/gcs -v4 -log-format json -loglevel debug -scrub-logs"
        line = f"{path} /root -e 1 /bin/vsockexec -o 109 -e 109 {agent}\n"
        assert (done.stdout, done.stderr) == (line, "")

    def test_python_can_seed_its_hashes_before_there_are_devices(
        self, listing: dict[str, str]
    ) -> None:
        assert listing["dev/urandom"].startswith("crw-rw-rw- 1 0 0 1, 9 ")

    @pytest.mark.parametrize(
        "program",
        [
            "bin/sh",
            "sbin/cryptsetup",
            "sbin/depmod",
            "sbin/mkfs.ext4",
            "sbin/mkfs.xfs",
            "sbin/modprobe",
            "sbin/udhcpc",
            "sbin/udhcpc_config.script",
            "usr/sbin/chronyd",
            "usr/sbin/runc",
        ],
    )
    def test_the_programs_the_agent_runs_are_there(
        self, listing: dict[str, str], program: str
    ) -> None:
        assert program in listing

    @pytest.mark.parametrize("name", ["dev", "proc", "run", "sys", "tmp", "etc", "var"])
    def test_mount_points_are_there(self, listing: dict[str, str], name: str) -> None:
        assert listing[name].startswith("d")

    def test_var_run_leads_to_run(self, listing: dict[str, str]) -> None:
        assert listing["var/run"].endswith("var/run -> /run")

    def test_everything_belongs_to_root(self, listing: dict[str, str]) -> None:
        assert {tuple(line.split()[2:4]) for line in listing.values()} == {("0", "0")}

    def test_no_python_source_or_cache_is_in_the_prefix(self, listing: dict[str, str]) -> None:
        prefix = [name for name in listing if name.startswith("usr/lib/gcs/")]
        assert prefix
        assert not [name for name in prefix if name.endswith(".py") or "__pycache__" in name]

    def test_rootfs_has_the_files_of_the_initrd(self, listing: dict[str, str]) -> None:
        with tarfile.open(OUT / "rootfs.tar.gz") as archive:
            assert set(archive.getnames()) == set(listing) - {"."}

    def test_information_says_where_the_image_comes_from(self, delta: Path) -> None:
        commit = (delta / "info/gcs.commit").read_text()
        assert len(commit.strip()) == 40
        assert (delta / "info/gcs.branch").read_text().strip()
        assert (delta / "info/tar.date").read_text().endswith("+00:00\n")


class TestSmall:
    """Nothing is in the image twice, or for debuggers alone."""

    def test_equal_files_are_hard_links(self, files: dict[str, Node]) -> None:
        first: dict[bytes, Node] = {}
        for path, node in files.items():
            if node.size >= 65536:
                assert first.setdefault(node.read(), node) is node, path

    def test_no_library_is_there_in_two_versions(self, files: dict[str, Node]) -> None:
        found: dict[str, set[int]] = {}
        for path, node in files.items():
            if ".so" in path and node.size >= 65536:
                found.setdefault(path.rpartition("/")[2], set()).add(id(node))
        assert {name for name, nodes in found.items() if len(nodes) > 1} == set()
        assert "libc.so.6" in found

    def test_programs_and_libraries_are_stripped(
        self, files: dict[str, Node], tmp_path: Path
    ) -> None:
        tried = 0
        for path, node in files.items():
            if node.read().startswith(b"\x7fELF"):
                (tmp_path / "elf").write_bytes(node.read())
                sections = run("readelf", "-SW", tmp_path / "elf").stdout
                assert ".symtab" not in sections, path
                assert ".debug_" not in sections, path
                tried += 1
        assert tried > 40

    def test_nothing_of_a_build_machine_is_in_what_is_compiled_here(self, delta: Path) -> None:
        prefix = delta / "usr/lib/gcs"
        (module,) = prefix.glob("lib/python3.11/_prctl.*.so")
        for path in (module, prefix / "bin/init"):
            sections = run("readelf", "-SW", path).stdout
            assert ".text" in sections
            assert ".note.gnu.build-id" not in sections


class TestPrograms:
    """Every program of the default base finds its libraries, and does something."""

    @pytest.mark.parametrize(
        "command",
        [
            ("/usr/sbin/runc", "--version"),
            ("/sbin/mkfs.ext4", "-V"),
            ("/sbin/mkfs.xfs", "-V"),
            ("/sbin/cryptsetup", "--version"),
            ("/usr/sbin/chronyd", "--version"),
            ("/sbin/modprobe", "--version"),
            ("/sbin/depmod", "--version"),
            ("/bin/sh", "-c", "udhcpc --help 2>/dev/null; test -x /sbin/udhcpc"),
        ],
        ids=lambda command: command[0].rpartition("/")[2],
    )
    def test_it_runs(self, tmp_path: Path, command: tuple[str, ...]) -> None:
        root = unpack(OUT / "rootfs.tar.gz", tmp_path / "root")
        done = chroot(root, *command)
        assert done.returncode == 0, done.stderr

    def test_chronyd_understands_the_agents_configuration(self, tmp_path: Path) -> None:
        root = unpack(OUT / "rootfs.tar.gz", tmp_path / "root")
        (root / "tmp/chronyd.conf").write_text(configuration("/dev/ptp3"))
        done = chroot(root, "/usr/sbin/chronyd", "-p", "-f", "/tmp/chronyd.conf")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == configuration("/dev/ptp3")

    def test_an_ext4_file_system_is_made(self, tmp_path: Path) -> None:
        root = unpack(OUT / "rootfs.tar.gz", tmp_path / "root")
        with (root / "disk").open("wb") as file:
            file.truncate(8 << 20)
        done = chroot(root, "/sbin/mkfs.ext4", "-q", "-F", "/disk")
        assert done.returncode == 0, done.stderr
        assert run("e2fsck", "-fn", root / "disk").returncode == 0


class TestDelta:
    def test_it_runs_by_itself(self, delta: Path) -> None:
        done = chroot(delta, PYTHON, "-IS", "-c", "import asyncio, msgspec; print('ready')")
        assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")

    def test_it_looks_for_modules_in_its_prefix_only(self, delta: Path) -> None:
        done = chroot(delta, PYTHON, "-IS", "-c", "import sys; print(*sys.path, sep='\\n')")
        assert done.stdout
        assert all(line.startswith("/usr/lib/gcs/") for line in done.stdout.splitlines())

    def test_every_module_of_the_agent_is_there(self, delta: Path) -> None:
        sources = REPOSITORY.glob("gcs/**/*.py")
        names = {
            ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            for path in sources
        }
        names = {name for name in names if not name.endswith("__main__")}
        code = "import sys\nfor name in sys.argv[1:]: __import__(name)\nprint('imported')"
        done = chroot(delta, PYTHON, "-IS", "-c", code, *sorted(names))
        assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")

    def test_what_the_guest_never_needs_is_not_there(self, delta: Path) -> None:
        for name in ("ssl", "unittest", "pip", "tkinter"):
            done = chroot(delta, PYTHON, "-IS", "-c", f"import {name}")
            assert "ModuleNotFoundError" in done.stderr

    def test_an_environment_of_the_base_changes_nothing(self, delta: Path) -> None:
        (delta / "evil").mkdir()
        (delta / "evil/libc.so.6").write_text("no library")
        environment = {"LD_LIBRARY_PATH": "/evil", "PYTHONPATH": "/evil", "PYTHONHOME": "/evil"}
        done = chroot(delta, PYTHON, "-IS", "-c", "print('ready')", environment=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")

    def test_vsockexec_prints_its_usage(self, delta: Path) -> None:
        done = chroot(delta, "/bin/vsockexec")
        assert done.returncode == 1
        assert "usage" in done.stderr.lower()

    def test_the_agent_refuses_an_unknown_flag(self, delta: Path) -> None:
        done = chroot(delta, "/bin/gcs", "-no-such-flag")
        assert done.returncode == 2
        assert "no-such-flag" in done.stderr

    def test_modules_for_rare_occasions_do_not_run_at_the_start(self, delta: Path) -> None:
        """`inspect` would be an eighth of it; asyncio has more than one way to ask it something."""
        body = msgspec.json.encode(
            {"ContainerID": UVM_ID, "MinimumVersion": 4, "MaximumVersion": 4}
        )
        frame = encode_frame(MessageType.NEGOTIATE_PROTOCOL, 1, body, limit=1 << 16)
        (delta / "dev").mkdir(exist_ok=True)
        os.mknod(delta / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        agent = [PYTHON, "-IS", "-X", "importtime", "/bin/gcs", "-v4", "-use-inouterr"]
        done = subprocess.run(
            ["chroot", delta, *agent], input=frame, capture_output=True, check=False
        )
        assert b'"Version":4' in done.stdout
        imports = done.stderr.partition(b"negotiateProtocolV2")[0]
        assert b"asyncio.unix_events" in imports
        assert not re.findall(rb"\| *(_ast|opcode|_opcode|token|re\._casefix)\b", imports)

    def test_the_agents_imports_leave_all_those_modules_alone(self, delta: Path) -> None:
        code = (
            "import sys, bundle, gcs.cli\n"
            "names = bundle.LAZY & set(sys.modules)\n"
            "kinds = {name: type(sys.modules[name]).__name__ for name in names}\n"
            "print(len(kinds), {name for name in kinds if kinds[name] != 'LazyModule'})"
        )
        done = chroot(delta, PYTHON, "-IS", "-c", code)
        count, others = done.stdout.split(maxsplit=1)
        assert int(count) > 10
        assert others == "set()\n"

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            # By a function of the module for names that it has not.
            (
                "from concurrent.futures import ThreadPoolExecutor as T; print(T(3)._max_workers)",
                "3",
            ),
            ("import concurrent.futures as c; print(hasattr(c, 'nothing'))", "False"),
            (
                "from traceback import extract_stack as f; print(len(f()) > 1, len(f(limit=1)))",
                "True 1",
            ),
            ("import asyncio; print(asyncio.run(asyncio.sleep(0, 7), debug=True))", "7"),
            (
                "import asyncio, subprocess; print(asyncio.wait.__kwdefaults__['return_when'])",
                "ALL_COMPLETED",
            ),
            (
                "import msgspec; print(msgspec.msgpack.encode(1), msgspec.toml.__name__)",
                "b'\\x01' msgspec.toml",
            ),
        ],
    )
    def test_what_they_have_is_there_when_it_is_used(
        self, delta: Path, code: str, expected: str
    ) -> None:
        done = chroot(delta, PYTHON, "-IS", "-c", code)
        assert (done.stdout, done.stderr) == (f"{expected}\n", "")

    def test_threads_see_a_module_complete_when_they_use_it_first_together(
        self, delta: Path
    ) -> None:
        code = """
import asyncio, threading, sys, ast, dis, inspect, locale, tokenize, traceback
last = {ast: "unparse", dis: "_test", inspect: "signature", locale: "resetlocale",
        tokenize: "generate_tokens", traceback: "walk_tb"}
failed = []
def use(module, name, together):
    together.wait()
    if not hasattr(module, name):
        failed.append(module.__name__)
sys.setswitchinterval(1e-6)
for module, name in last.items():
    together = threading.Barrier(8)
    threads = [threading.Thread(target=use, args=(module, name, together)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(failed)
"""
        done = chroot(delta, PYTHON, "-IS", "-c", code)
        assert (done.stdout, done.stderr) == ("[]\n", "")

    def test_a_traceback_shows_where_in_the_source(self, delta: Path) -> None:
        done = chroot(delta, PYTHON, "-IS", "-c", "import heapq; heapq.merge(1, key=2).__next__()")
        assert 'File "/usr/lib/gcs/lib/python3.11/heapq.py", line ' in done.stderr


class TestBases:
    """The delta over bases of three kinds, with the base's own programs running as before."""

    def test_no_c_library_at_all(self, tmp_path: Path) -> None:
        root = unpack(OUT / "busybox.tar", tmp_path / "root")
        unpack(OUT / "delta.tar.gz", root)
        script = f"echo from busybox; exec {PYTHON} -IS -c 'print(\"from python\")'"
        done = chroot(root, "/bin/sh", "-c", script)
        assert (done.stdout, done.stderr) == ("from busybox\nfrom python\n", "")

    def test_musl(self, tmp_path: Path) -> None:
        root = unpack(OUT / "delta.tar.gz", tmp_path / "root")
        (root / "lib").mkdir()
        shutil.copy("/lib/x86_64-linux-musl/libc.so", root / "lib/ld-musl-x86_64.so.1")
        source = """
            int puts(const char *); void exit(int); int execv(const char *, char **);
            int fflush(void *);
            __attribute__((force_align_arg_pointer)) void _start(void) {
                puts("from musl");
                fflush(0);
                char *words[] = {"PYTHON", "-IS", "-c", "print('from python')", 0};
                exit(execv("PYTHON", words));
            }
        """.replace("PYTHON", PYTHON)
        (root / "bin").mkdir(exist_ok=True)
        linked = subprocess.run(
            [
                *("gcc", "-x", "c", "-", "-nostdlib", "-fno-stack-protector", "-Wl,--no-as-needed"),
                *("-L/lib/x86_64-linux-musl", "-lc", "-o", str(root / "bin/hello")),
                "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1",
            ],
            input=source,
            text=True,
            check=False,
            capture_output=True,
        )
        assert linked.returncode == 0, linked.stderr
        done = chroot(root, "/bin/hello")
        assert (done.stdout, done.stderr) == ("from musl\nfrom python\n", "")

    def test_another_glibc_is_not_touched(self, tmp_path: Path) -> None:
        root = unpack(OUT / "rootfs.tar.gz", tmp_path / "root")
        assert (root / "lib/x86_64-linux-gnu/libc.so.6").exists()
        subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
        try:
            code = f"import asyncio, msgspec\n{LIST_MAPPED_FILES}"
            done = chroot(root, PYTHON, "-IS", "-c", code)
        finally:
            subprocess.run(["umount", root / "proc"], check=True)
        assert done.returncode == 0, done.stderr
        assert all(name.startswith("/usr/lib/gcs/") for name in done.stdout.split())


class TestKernel:
    def test_the_kernel_is_an_elf_file_of_the_modules_release(self, modules: Path) -> None:
        kernel = (OUT / "vmlinux").read_bytes()
        assert kernel.startswith(b"\x7fELF")
        assert f"Linux version {modules.name} ".encode() in kernel

    def test_every_dependency_is_carried(self, modules: Path) -> None:
        for line in (modules / "modules.dep").read_text().splitlines():
            for path in line.replace(":", "").split():
                assert (modules / path).is_file()

    def test_what_is_loaded_at_boot_is_carried(self, modules: Path) -> None:
        carried = {path.name.partition(".")[0].replace("-", "_") for path in modules.rglob("*.ko")}
        names = (modules / "modules.load").read_text().split()
        assert {"vmw_vsock_virtio_transport", "overlay", "sd_mod"} <= set(names) <= carried

    def test_the_image_for_qemu_is_the_initrd_with_the_modules(self) -> None:
        initrd = gzip.decompress((OUT / "initrd.img").read_bytes())
        modules = (OUT / "modules.cpio").read_bytes()
        assert (OUT / "initrd-qemu.img").read_bytes() == initrd + modules
