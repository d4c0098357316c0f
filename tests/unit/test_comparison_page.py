"""docs/comparison.md shows what it says: each of our cells leads to a test that is there, and no cell is empty."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "comparison.md").read_text(encoding="utf-8")
HEAD = ["", "Holdfast", "Dapr state", "Orleans persistence", "NATS KV", "KurrentDB"]
LINK = re.compile(r"\[(test_\w+)\]\(([^)]+)\)")


def tables(page: str) -> Iterator[tuple[str, list[list[str]]]]:
    """The page's tables, each with the heading above it: rows of cells, the first of them its head."""
    heading, rows = "", list[list[str]]()
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")])
        elif rows:
            yield heading, rows
            rows = []
        if line.startswith("## "):
            heading = line.removeprefix("## ")


COMPARED = {heading: rows[2:] for heading, rows in tables(PAGE) if rows[0] == HEAD}
ROWS = [pytest.param(row, id=f"{heading}: {row[0]}") for heading, rows in COMPARED.items() for row in rows]


@cache
def names_in(path: Path) -> set[str]:
    """The names of the functions that a module defines, tests among them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_whole_and_ours_is_shown_by_a_test(row: list[str]) -> None:
    """Given a row, when it is read, then each column says something, and our tests are where they are said to be."""
    assert len(row) == len(HEAD)
    assert all(row)
    links = LINK.findall(row[1])
    assert links
    for name, target in links:
        path = (DOCS / target).resolve()
        assert path.is_file(), target
        assert name in names_in(path), f"{name} is not in {target}"
    # Nothing else in the cell leads anywhere, so that no link is passed over.
    assert len(links) == row[1].count("](")
    assert not any("](" in cell for cell in (row[0], *row[2:]))


def test_all_tables_are_read() -> None:
    """Given the page, when its tables are counted, then each compares, but the one of what is missing here."""
    others = [(heading, rows) for heading, rows in tables(PAGE) if rows[0] != HEAD]
    assert [heading for heading, _ in others] == ["What Dapr or Orleans have, and Holdfast has not"]
    assert len(COMPARED) == len(re.findall(r"^## ", PAGE, re.MULTILINE)) - 3
    names = [row[0] for rows in COMPARED.values() for row in rows]
    assert len(names) == len(set(names))
    missing = others[0][1][2:]
    assert missing
    assert all(len(row) == 4 and all(row) for row in missing)


def test_its_own_anchors_are_there() -> None:
    """Given links within the page, when they are followed, then there is such a heading."""
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors


def test_the_readme_leads_to_every_page() -> None:
    """Given the pages, when the README is read, then it has a link to each."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", readme))
    assert linked == {path.name for path in DOCS.glob("*.md")}
