"""Read Parquet in bounded memory: a few kilobytes on disk can expand to gigabytes, which are never loaded at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from gendiv_lightning.errors import FileFormatError, MemoryLimitError
from gendiv_lightning.storage.files import GIB, check_regular
from gendiv_lightning.storage.tables import Record

MOST_ROWS = 1024  # maximum rows per batch
BATCH = GIB // 16  # maximum size of a batch in bytes


@contextmanager
def open_parquet(file: str | Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, on disk or at an address; problems are raised as FileFormatError with its name.

    Text columns are read as dictionaries, so that a repeated text is in memory once.
    """
    address = str(file)
    if "://" not in address:
        check_regular(Path(address))
    opened: IO[bytes]
    with fsspec.open(address) as opened:
        try:
            schema = pq.read_schema(opened)
            check_columns(schema, str(file))
            texts = [field.name for field in schema if is_text(field.type)]
            with pq.ParquetFile(opened, read_dictionary=texts) as table:
                yield table
        except (pa.ArrowException, OSError) as error:  # OSError: a damaged page
            raise FileFormatError(
                f"{file} cannot be read as Parquet ({str(error).strip()}). Restore or download the file again"
            ) from error


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a table. Arrow cannot open files whose name is not UTF-8, so it receives an open file."""
    with path.open("wb") as file:
        pq.write_table(table, file, **options)


def read_columns(table: pq.ParquetFile, columns: Sequence[str], group: int) -> Iterator[pa.RecordBatch]:
    """Some columns of a row group, in batches of bounded size.

    A value is at most as large as all pages of its column together; the number of rows per batch is chosen so that they
    fit in `BATCH`. Texts, which are read as dictionaries, and numbers do not count.
    """
    kinds = {name: table.schema_arrow.field(name).type for name in columns}
    expanding = [name for name, kind in kinds.items() if is_binary(kind) or kind.num_fields]
    most = BATCH // max(page_bytes(table, expanding, group), 1)
    yield from table.iter_batches(max(1, min(MOST_ROWS, most)), row_groups=[group], columns=list(columns))


def to_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch; equal texts of a dictionary share one object."""
    columns = {name: _values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: pa.Array) -> list[Any]:
    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    texts: dict[int | None, Any] = {None: None}
    for index in column.indices.to_pylist():
        if index not in texts:
            texts[index] = column.dictionary[index].as_py()
    return [texts[index] for index in column.indices.to_pylist()]


def page_bytes(table: pq.ParquetFile, columns: Sequence[str], group: int) -> int:
    """Bytes of the pages of some columns in a row group, decompressed but still encoded."""
    row_group = table.metadata.row_group(group)
    chunks = (row_group.column(index) for index in range(row_group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def load_columns(
    table: pq.ParquetFile, columns: Sequence[str], group: int, *, size: int, memory_limit: float
) -> pa.Table:
    """Some columns of a row group, whole.

    Args:
        table: the file.
        columns: top-level columns.
        group: number of the row group.
        size: size of the file on disk in bytes.
        memory_limit: memory in GiB that they may take, or four times `size` if that is more.

    Raises:
        MemoryLimitError: they take more.
    """
    most = max(memory_limit * GIB, 4 * size)
    batches, total = [], page_bytes(table, columns, group)
    if total <= most:
        total = 0
        for batch in read_columns(table, columns, group):
            total += batch.nbytes
            if total > most:
                break
            batches.append(batch)
    if total > most:
        raise MemoryLimitError(
            f"the columns {', '.join(columns)} expand from {size / 2**20:.3g} MiB on disk to more than the memory "
            "limit "
            f"of {memory_limit:g} GiB. Raise it with --memory-limit (in configs memory_limit)"
        )
    schema = pa.schema([table.schema_arrow.field(column) for column in columns])
    return pa.Table.from_batches(batches, schema) if batches else schema.empty_table()


def read_parquet(file: str | Path) -> Iterator[Record]:
    """The records of a Parquet file, read in batches; columns of bytes are omitted."""
    with open_parquet(file) as table:
        columns = [field.name for field in table.schema_arrow if not holds_bytes(field.type)]
        if not columns:
            kinds = ", ".join(f"{field.name} ({field.type})" for field in table.schema_arrow)
            raise FileFormatError(f"{file} has no column of texts, but {kinds or 'nothing'}. Convert bytes to strings")
        number = 0
        for group in range(table.num_row_groups):
            for batch in read_columns(table, columns, group):
                for row in to_rows(batch):
                    number += 1
                    yield Record(f"{Path(str(file)).name}, row {number}", row)


def check_columns(schema: pa.Schema, where: str) -> None:
    """Raise FileFormatError if two columns share a name, since a record would keep only one of them."""
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise FileFormatError(f"{where} has several columns {repeated[0]!r}. Rename all but one")


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a type is binary, or has binary parts."""
    if is_binary(kind):
        return True
    return any(holds_bytes(kind.field(index).type) for index in range(kind.num_fields))


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type contains bytes, in any of Arrow's layouts."""
    types: Any = pa.types
    kinds = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(is_kind(value_type(kind)) for is_kind in kinds)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type contains text, in any of Arrow's layouts."""
    types: Any = pa.types
    kinds = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_kind(value_type(kind)) for is_kind in kinds)


def value_type(kind: pa.DataType) -> pa.DataType:
    """The value type of a dictionary; any other type unchanged."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
