"""The pages that compare ours with the reference name no test that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGES = [(TESTS.parent / "docs" / name).read_text() for name in ("conformance.md", "init.md")]
NAMED = sorted({named for page in PAGES for named in re.findall(r"`([\w/]+\.py)::(\w+)`", page)})


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_test_that_is_named_exists(path: str) -> None:
    source = (TESTS / path).read_text()
    existing = set(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))
    assert {name for file, name in NAMED if file == path} <= existing


def test_the_pages_name_tests() -> None:
    assert len(NAMED) > 80
