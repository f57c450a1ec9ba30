"""Parquet files as the Hub's dataset repositories have them, with drawn images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import PIL.Image
import pyarrow as pa
from pyarrow import parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image(k: int, size: tuple[int, int] = (12, 8)) -> dict[str, Any]:
    """As the datasets library writes an image; each k has its own colour."""
    file = io.BytesIO()
    PIL.Image.new("RGB", size, (k % 256, k // 256 % 256, 90)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{k}.png"}


def parquet_file(schema: pa.Schema, rows: Sequence[dict[str, Any]], group: int = 10, **options: Any) -> bytes:
    """`group`: rows in a row group."""
    file = io.BytesIO()
    table = pa.Table.from_pylist(list(rows), schema)
    parquet.write_table(table, file, row_group_size=group, **options)
    return file.getvalue()


CHARTQA = pa.schema([("type", pa.string()), ("question", pa.string()), ("answer", pa.string()), ("image", IMAGE)])


def chartqa(n: int, *, start: int = 0, group: int = 10) -> bytes:
    """Three of four questions are of people. The answer to question k is k."""
    rows = [
        {
            "type": "augmented_test" if k % 4 == 3 else "human_test",
            "question": f"What is value {k}?",
            "answer": str(k),
            "image": image(k),
        }
        for k in range(start, start + n)
    ]
    return parquet_file(CHARTQA, rows, group)
