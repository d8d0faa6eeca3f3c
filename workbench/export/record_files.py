"""Records as CSV, Parquet and JSON, unrounded, with what every column means beside them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.export.column_meanings import meaning_of
from workbench.files import atomic_path, write_json, write_parquet

RECORD_FORMATS: tuple[str, ...] = ("csv", "parquet", "json")
COLUMNS_FILE = "columns.json"


def write_records(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table as its suffix says; what was not measured is empty (CSV) or null (JSON).

    CSV and JSON hold every number with all its digits, so reading them back gives the same values.

    Raises:
        RunError: The file cannot be written.
    """
    if path.suffix == ".parquet":
        write_parquet(path, frame)
        return path
    text = str(frame.to_csv(index=False)) if path.suffix == ".csv" else records_json(frame)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def records_json(frame: pd.DataFrame) -> str:
    """One JSON object a row, a row a line, in a list."""
    rows = (
        json.dumps({str(key): _plain(value) for key, value in row.items()}, ensure_ascii=False)
        for row in frame.astype(object).to_dict("records")
    )
    return "[\n" + ",\n".join(rows) + "\n]\n"


def write_columns(kind: str, records: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Write what the columns of all tables of a run mean, with their types.

    Raises:
        RunError: The file cannot be written.
    """
    write_json(
        path,
        {
            name: {
                str(column): {
                    "type": _type(frame[column]),
                    "meaning": meaning_of(kind, name, str(column)),
                }
                for column in frame.columns
            }
            for name, frame in records.items()
        },
    )
    return path


def _type(column: "pd.Series[Any]") -> str:
    if pd.api.types.is_bool_dtype(column):
        return "boolean"
    if pd.api.types.is_integer_dtype(column):
        return "integer"
    return "number" if pd.api.types.is_float_dtype(column) else "text"


def _plain(value: object) -> object:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)
