"""The folder tree is the architecture: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = {
    "gcs.linux": 0,
    "gcs.protocol": 1,
    "gcs.transport": 2,
    "gcs.storage": 3,
    "gcs.network": 3,
    "gcs.cgroup": 3,
    "gcs.stdio": 3,
    "gcs.policy": 3,
    "gcs.runtime": 4,
    "gcs.bridge": 5,
    "gcs.init": 6,
    "gcs.tools": 6,
    "gcs.cli": 6,
    "gcs.agent": 6,
    "gcs.flags": 6,
    "gcs.kernel_log": 6,
    "gcs.logs": 6,
    "gcs.time_sync": 6,
    "gcs.__main__": 6,
}
#: The version number, which everybody may read.
EVERYBODY = "gcs"
#: Of use alone; the host tool makes disks with it, and the guest, which is told what to mount,
#: does not carry it.
IMAGES = "tar2ext4"
MODULES = sorted(path for top in ("gcs", "uvm", IMAGES) for path in ROOT.glob(f"{top}/**/*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """The name that FLOORS has for a module."""
    return ".".join(module.split(".")[:2])


def imports(source: str, module: str, *, is_package: bool) -> set[str]:
    """Everything a module imports, at whatever depth of the code, by its absolute name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                keep = len(above) - node.level + (1 if is_package else 0)
                base = ".".join([*above[:keep], *filter(None, [base])])
            if base == EVERYBODY:
                # `from gcs import x`: a package, or a name in gcs/__init__.py.
                found.update(
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in FLOORS else base
                    for alias in node.names
                )
            else:
                found.add(base)
    return {name for name in found if name.split(".")[0] in ("gcs", "uvm", IMAGES)}


def violations(module: str, imported: set[str]) -> list[str]:
    """What is wrong with the imports of a module."""
    complaints = {
        "gcs": complaint_about_guest,
        "uvm": complaint_about_host,
        IMAGES: complaint_about_images,
    }
    complain = complaints[module.split(".", maxsplit=1)[0]]
    found = ((name, complain(module, name)) for name in sorted(imported) if name != EVERYBODY)
    return [complaint.format(module=module, name=name) for name, complaint in found if complaint]


def complaint_about_images(_module: str, name: str) -> str | None:
    if name.startswith(IMAGES):
        return None
    return f"{{module}} imports {{name}}: {IMAGES} is of use alone"


def complaint_about_host(_module: str, name: str) -> str | None:
    if name.startswith("gcs") and package_of(name) != "gcs.protocol":
        return "{module} imports {name}: the host tool may use gcs.protocol only"
    return None


def complaint_about_guest(module: str, name: str) -> str | None:
    if name.startswith("uvm"):
        return "{module} imports {name}: the guest knows nothing of the host tool"
    if name.startswith(IMAGES):
        return "{module} imports {name}: the guest does not carry it"
    here, there = package_of(module), package_of(name)
    if here == there:
        return None
    if FLOORS[there] > FLOORS[here]:
        return "{module} imports upwards: {name}"
    if FLOORS[there] == FLOORS[here] == 3:
        return "{module} imports {name}: mechanisms don't know each other"
    if here == "gcs.linux":
        return "{module} imports {name}: floor 0 imports nothing of gcs"
    return None


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_imports_only_from_floors_below(path: Path) -> None:
    module = module_name(path)
    found = imports(path.read_text(), module, is_package=path.name == "__init__.py")
    assert not violations(module, found)


def test_every_package_has_a_floor() -> None:
    names = {package_of(module_name(path)) for path in MODULES}
    assert {name for name in names if name.startswith("gcs.")} <= set(FLOORS)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("gcs.linux.mount", "import gcs.protocol.errors", "upwards"),
        ("gcs.transport.unix", "def f():\n    from gcs.bridge import bridge", "upwards"),
        ("gcs.storage.scsi", "from gcs.network import adapter", "each other"),
        ("gcs.storage.scsi", "if TYPE_CHECKING:\n    from ..network import adapter", "each other"),
        ("gcs.runtime.host", "from gcs import cli", "upwards"),
        ("gcs.runtime.host", "import uvm", "host tool"),
        ("uvm.vm", "from gcs.transport import unix", "gcs.protocol only"),
        ("uvm.vm", "from gcs import transport", "gcs.protocol only"),
        ("gcs.storage.scsi", "from tar2ext4 import convert", "does not carry"),
        ("tar2ext4.cli", "from gcs import flags", "of use alone"),
        ("tar2ext4.cli", "import uvm.errors", "of use alone"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, complaint: str) -> None:
    assert complaint in violations(module, imports(source, module, is_package=False))[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gcs.bridge.bridge", "from gcs.runtime.host import Host"),
        ("gcs.runtime.host", "from gcs.storage import scsi"),
        ("gcs.agent", "from gcs import __version__"),
        ("uvm.vm", "from gcs.protocol.frame import Header"),
        ("uvm.vm", "from tar2ext4 import convert"),
        ("tar2ext4.cli", "from tar2ext4.convert import convert"),
    ],
)
def test_an_allowed_import_is_not_complained_about(module: str, source: str) -> None:
    assert not violations(module, imports(source, module, is_package=False))
