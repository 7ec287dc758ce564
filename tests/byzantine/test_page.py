"""The table of docs/byzantine.md says what there is: a row for each case, and the names of its tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "byzantine.md").read_text("utf-8")
CASES = [f"B{number:02}" for number in range(1, 36)]
WITH_HTTPS = ("B27", "B28")


def rows() -> dict[str, list[str]]:
    found = {}
    for line in PAGE.splitlines():
        if re.match(r"\| B\d\d \|", line):
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            found[cells[0]] = cells
    return found


def names_of_the_tests() -> set[str]:
    """Functions that are named for a case, and stories that `case` gives the name of one."""
    found = set()
    for file in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Assign):
                found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in found if re.match(r"test_b\d\d_", name)}


def test_every_case_has_a_row_and_they_are_in_order() -> None:
    assert list(rows()) == CASES


def test_the_table_names_all_tests_and_no_others() -> None:
    named = {case: set(re.findall(r"`(test_\w+)`", " ".join(cells))) for case, cells in rows().items()}
    for case, names in named.items():
        assert all(name.startswith(f"test_{case.lower()}_") for name in names), case
    assert set().union(*named.values()) == names_of_the_tests()


def test_what_has_no_test_says_why() -> None:
    for case in WITH_HTTPS:
        assert "HTTPS door" in rows()[case][3]
