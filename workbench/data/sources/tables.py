"""Rows of a table file: CSV, JSON, JSON Lines or Parquet, each also compressed with gzip.

Reading is strict: a row with more or fewer cells than the header, a broken quotation, text that
is not UTF-8, or a truncated archive is refused with the file and the row's name. A byte order
mark is skipped, and so are rows without any content. Nothing in a file is ever executed.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from workbench.data.sources.labels import Cell, is_empty
from workbench.errors import DataError, one_line

Row = Mapping[str, Cell]
FORMATS = ("csv", "json", "jsonl", "parquet")
_LONGEST_CELL = 16 * 2**20
_KEPT_AS_TEXT = "utf-8-sig"


def read_rows(path: str | Path) -> list[tuple[int, Row]]:
    """The rows of a file that hold anything, each with its number from 1.

    Raises:
        DataError: The file is missing, of another format, damaged, or holds no rows.
    """
    path = Path(path)
    suffix = _format(path)
    content = _content(path)
    if suffix == "parquet":
        rows = _parquet(content, path)
    else:
        text = _decoded(content, path)
        reader = {"csv": _csv, "json": _json, "jsonl": _json_lines}[suffix]
        rows = list(reader(text, path))
    filled = [(number, row) for number, row in rows if not _is_blank(row)]
    if not filled:
        raise DataError(f"{path} holds no rows")
    return filled


def _format(path: Path) -> str:
    suffixes = [suffix.lstrip(".").casefold() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == "gz":
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise DataError(
            f"{path}: cannot tell the format; use a file that ends with "
            f"{', '.join('.' + name for name in FORMATS)}, or one of them with .gz"
        )
    return suffixes[-1]


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from error
    if path.suffix.casefold() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no complete gzip file ({error}); fetch it again") from error


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode(_KEPT_AS_TEXT)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}); save the file as UTF-8"
        ) from error


def _csv(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(_LONGEST_CELL)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = _checked_header(next(lines, []), path)
        number = 0
        for cells in lines:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, row {number} (line {lines.line_num}) has {len(cells)} cells where "
                    f"the header has {len(header)}; a text with commas must stand in quotes"
                )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: broken CSV ({error})") from error


def _checked_header(header: Sequence[str], path: Path) -> Sequence[str]:
    if not header:
        raise DataError(f"{path} is empty; a first line with the columns' names is needed")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise DataError(f"{path} names the column '{min(twice)}' twice")
    return header


def _json(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    content = _parsed(text, str(path))
    if not isinstance(content, list):
        raise DataError(
            f"{path} holds a {type(content).__name__}; a list of objects is needed, "
            "or one object a line in a .jsonl file"
        )
    for number, row in enumerate(content, start=1):
        yield number, _checked_row(row, f"{path}, row {number}")


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    for line in text.split("\n"):  # splitlines() also breaks at marks that JSON allows in a text
        if line.strip():
            number += 1
            where = f"{path}, row {number}"
            yield number, _checked_row(_parsed(line, where), where)


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}") from error


def _checked_row(row: object, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} holds a {type(row).__name__}, an object is needed")
    return row


def _parquet(content: bytes, path: Path) -> list[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no readable Parquet table ({one_line(error)})") from error
    return list(enumerate(table.to_pylist(), start=1))


def _is_blank(row: Row) -> bool:
    return all(is_empty(cell) for cell in row.values())
