"""The page that compares our tests with the reference's names none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "conformance.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_test_that_is_named_exists(path: str) -> None:
    source = (TESTS / path).read_text()
    existing = set(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))
    assert {name for file, name in NAMED if file == path} <= existing


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 80
