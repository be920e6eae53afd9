"""The helper programs of the image (spec 7.4 to 7.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gcs.tools import multicall
from gcs.tools.generichook import functions_of
from gcs.tools.state import StateError, read_state
from gcs.tools.template import TemplateError, render

if TYPE_CHECKING:
    from pathlib import Path

STATE = (
    b' {"id": "c1", "pid": 42, "annotations": {"mode": "a b", "debug": "true"}, "x": [1.5, null]}\n'
)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("--pid={{pid}}", "--pid=42"),
        ("{{ id }}/{{- id }} {{- /* no */ -}} x", "c1/c1x"),
        ('{{annotation "mode" | printf "<%s>"}}{{annotation "none"}}', "<a b>"),
        ('{{if eq (annotation "debug") "true"}}yes{{else}}no{{end}}', "yes"),
        ('{{if annotation "none"}}1{{else if eq pid 42}}2{{else}}3{{end}}', "2"),
        ("{{len `abc`}} {{not true}}", "3 false"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render(template, functions_of(read_state(STATE))) == text


@pytest.mark.parametrize("bad", ["{{", "{{none}}", "{{if pid}}", "{{end}}", "{{.ID}}", "{{pid 1}}"])
def test_wrong_templates(bad: str) -> None:
    with pytest.raises(TemplateError, match="template"):
        render(bad, functions_of(read_state(STATE)))


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b'{"pid": "1"}', b"\xff"])
def test_wrong_states(bad: bytes) -> None:
    with pytest.raises(StateError, match="state"):
        read_state(bad)


def test_an_unknown_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert multicall.main(["/bin/other"]) == 127
    assert "generichook" in capfd.readouterr().err


def test_install_drivers_arguments(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert multicall.main(["install-drivers"]) == 1
    assert "expected two args" in capfd.readouterr().err
    assert multicall.main(["/bin/install-drivers", str(tmp_path), "/none"]) == 0
    assert multicall.main(["/bin/install-drivers", f"{tmp_path}/new", "/none"]) == 1
    assert not (tmp_path / "new").exists()
