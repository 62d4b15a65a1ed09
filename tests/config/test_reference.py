"""docs/config.md: up to date, every field explained, every row of every table whole."""

from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.rules_block.table import escapedSplit
from markdown_it.token import Token

from coop_rl.config import RunConfig
from coop_rl.config.reference import COLUMNS, render_reference

PAGE = Path(__file__).parents[2] / "docs/config.md"


def test_every_field_is_documented() -> None:
    """The reference page is generated from attribute docstrings."""
    schema = RunConfig.model_json_schema()
    for section in schema["$defs"].values():
        if not section.get("properties"):
            continue
        for name, field in section["properties"].items():
            if name != "kind":
                assert field.get("description"), f"{section['title']}.{name} has no docstring"


def test_the_reference_page_is_up_to_date() -> None:
    """The page doubles as the frozen snapshot of the schema: `make docs` renews it."""
    assert PAGE.read_text() == render_reference(), "run `make docs`"


def rows(tokens: list[Token]) -> Iterator[tuple[int, list[Token]]]:
    """Yield each table row's line and the contents of its cells, header rows included."""
    for index, token in enumerate(tokens):
        if token.type == "tr_open":
            assert token.map
            end = next(i for i in range(index, len(tokens)) if tokens[i].type == "tr_close")
            yield token.map[0], [t for t in tokens[index:end] if t.type == "inline"]


def test_every_row_of_every_table_has_its_columns() -> None:
    """The parser fills short rows up and cuts long ones, so cells are counted before it does."""
    text = PAGE.read_text()
    lines = text.splitlines()
    found = dict(rows(MarkdownIt("commonmark").enable("table").parse(text)))
    delimiters = {number for number, line in enumerate(lines) if line.startswith("|---")}
    assert found.keys() | delimiters == {n for n, line in enumerate(lines) if line.startswith("|")}
    for number, cells in found.items():
        first, *written, last = escapedSplit(lines[number].strip())
        assert (first, last) == ("", ""), lines[number]
        assert len(written) == len(COLUMNS), lines[number]
        assert [cell.content for cell in cells] == [cell.strip() for cell in written]
        assert all(cell.content for cell in cells), lines[number]


def test_tables_show_every_description_whole() -> None:
    parsed = MarkdownIt("commonmark").enable("table").parse(PAGE.read_text())
    shown = {(cells[0].content.strip("`"), cells[-1].content) for _, cells in rows(parsed)}
    for section in RunConfig.model_json_schema()["$defs"].values():
        for name, field in section["properties"].items():
            if name != "kind" or "const" not in field:
                assert (name, " ".join(field["description"].split())) in shown


def test_nothing_on_the_page_is_taken_for_html() -> None:
    """A browser would not show it."""
    for token in MarkdownIt("commonmark").enable("table").parse(PAGE.read_text()):
        kinds = {child.type for child in token.children or ()}
        assert token.type != "html_block"
        assert "html_inline" not in kinds, token.content
