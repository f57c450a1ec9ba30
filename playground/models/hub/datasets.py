"""Dataset repositories: the parquet files of a split, and rows of them, by the row groups that are wanted.

Only the footers, the wanted row groups, and of these the wanted columns are fetched
(docs/decisions/0024-parquet-by-row-groups.md). pyarrow is an optional dependency: the extra "suites".
"""

from __future__ import annotations

import bisect
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from playground.errors import BadInput, BadModel
from playground.models.hub.listing import RemoteFile

if TYPE_CHECKING:
    from pyarrow import parquet

# What the Hub itself makes of a dataset in another form.
CONVERTED = "refs/convert/parquet"
_SPLITS = ("test", "validation", "val", "dev", "testmini", "train")  # the first one that is there is the usual one
_MAX_GROUP_BYTES = 2**30  # of a row group that is held in memory; those of image datasets have 10 to 100 MB
_AT_ONCE = 8  # footers


class DatasetListing(msgspec.Struct, frozen=True):
    """The files of a dataset repository at one commit."""

    id: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    gated: bool = False
    # configuration -> split -> patterns of file names, as the repository's card has them
    configurations: Mapping[str, Mapping[str, tuple[str, ...]]] = {}

    @property
    def parquet_names(self) -> tuple[str, ...]:
        return tuple(sorted(file.name for file in self.files if file.name.endswith(".parquet")))

    def splits(self, configuration: str) -> dict[str, tuple[str, ...]]:
        """Of a configuration (empty: the default): each split's parquet files. Raises BadInput."""
        named = self._configuration(configuration)
        if named is not None:
            splits = {
                split: tuple(name for name in self.parquet_names if any(fnmatch.fnmatchcase(name, p) for p in patterns))
                for split, patterns in self.configurations[named].items()
            }
            return {split: names for split, names in splits.items() if names}
        return _splits_by_name(self.parquet_names, configuration)

    def split(self, configuration: str, split: str) -> tuple[str, tuple[RemoteFile, ...]]:
        """A split's name and files; empty: the usual split. Raises BadInput naming what can be chosen."""
        splits = self.splits(configuration)
        if not splits:
            raise BadInput(f"{self.id} has no parquet files{f' for {configuration}' if configuration else ''}.")
        name = split or next((usual for usual in _SPLITS if usual in splits), next(iter(splits)))
        if name not in splits:
            raise BadInput(f"{self.id} has no split '{name[:80]}'. It has: {', '.join(splits)[:400]}.")
        by_name = {file.name: file for file in self.files}
        return name, tuple(by_name[file] for file in splits[name])

    def _configuration(self, configuration: str) -> str | None:
        """Its name in the card; None where the card names none. Raises BadInput."""
        if not self.configurations:
            return None
        if not configuration:
            return "default" if "default" in self.configurations else next(iter(self.configurations))
        if configuration not in self.configurations:
            names = ", ".join(self.configurations)[:400]
            raise BadInput(f"{self.id} has no configuration '{configuration[:80]}'. It has: {names}.")
        return configuration


def read_configurations(card: object) -> dict[str, dict[str, tuple[str, ...]]]:
    """The card's `configs`, as far as they have the Hub's form."""
    configurations: dict[str, dict[str, tuple[str, ...]]] = {}
    for entry in card if isinstance(card, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("config_name"), str):
            continue
        files = entry.get("data_files")
        splits: dict[str, tuple[str, ...]] = {}
        for part in files if isinstance(files, list) else ():
            if isinstance(part, dict) and isinstance(part.get("split"), str):
                path = part.get("path")
                paths = path if isinstance(path, list) else [path]
                splits[part["split"]] = tuple(str(pattern) for pattern in paths if pattern)
        if splits:
            configurations[entry["config_name"]] = splits
    return configurations


def _splits_by_name(names: Sequence[str], configuration: str) -> dict[str, tuple[str, ...]]:
    """As the datasets library reads names: data/test-00000-of-00001.parquet, default/test/0000.parquet."""
    splits: dict[str, list[str]] = {}
    for name in names:
        *folders, base = name.split("/")
        if configuration and configuration not in folders:
            continue
        words = [folder for folder in folders if folder not in (configuration, "data", "default")]
        first = re.split(r"[-_.]", base)[0]
        split = next((word for word in reversed(words) if not word.isdecimal()), None) if first.isdecimal() else first
        splits.setdefault(split or "train", []).append(name)
    return {split: tuple(files) for split, files in splits.items()}


class ParquetTable:
    """The rows of one split, one after another through its files."""

    def __init__(
        self,
        listing: DatasetListing,
        split: str,
        files: Sequence[RemoteFile],
        open_file: Callable[[RemoteFile], Any],
    ) -> None:
        """Reads the footers. `open_file`: its bytes, for a reader that seeks; what that raises passes through.

        Raises BadInput for a split without rows, BadModel for an invalid file.
        """
        self.listing = listing
        self.split = split
        self._files = tuple(files)
        self._open = open_file
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            self._tables: list[parquet.ParquetFile] = list(threads.map(self._opened, self._files))
        # Of each row group: its file, its place in the file, and its first row.
        self._groups: list[tuple[int, int]] = []
        self._starts: list[int] = []
        self.n_rows = 0
        for k, table in enumerate(self._tables):
            for group in range(table.metadata.num_row_groups):
                self._groups.append((k, group))
                self._starts.append(self.n_rows)
                self.n_rows += table.metadata.row_group(group).num_rows
        if not self.n_rows:
            raise BadInput(f"{listing.id}, {split} has no rows.")

    @property
    def commit(self) -> str:
        return self.listing.commit

    @property
    def licence(self) -> str | None:
        return self.listing.licence

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._tables[0].schema_arrow.names)

    @property
    def kinds(self) -> dict[str, str]:
        """What each column holds: image, text, number, list, other."""
        return {field.name: _kind(field.type) for field in self._tables[0].schema_arrow}

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self._files)

    def group_of(self, row: int) -> int:
        return bisect.bisect_right(self._starts, row) - 1

    def column(self, name: str) -> list[Any]:
        """Of all rows. Raises Offline, BadModel."""
        return list(itertools.chain.from_iterable(self._column(group, name) for group in range(len(self._groups))))

    def read(self, group: int, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Rows of one row group. Raises BadModel if it is damaged, Offline."""
        if self.bytes_of([group], columns) > _MAX_GROUP_BYTES:
            raise BadModel(f"{self._name(group)} is larger than {_MAX_GROUP_BYTES // 2**20} MiB.")
        start = self._starts[group]
        with self._damage(group):
            table = self._table(group, columns).take([row - start for row in rows])
            return dict(zip(rows, table.to_pylist(), strict=True))

    def bytes_of(self, groups: Sequence[int], columns: Sequence[str]) -> int:
        """What reading these columns of these row groups fetches."""
        return sum(self._group_bytes(group, set(columns)) for group in groups)

    def _column(self, group: int, name: str) -> list[Any]:
        with self._damage(group):
            values: list[Any] = self._table(group, [name]).column(0).to_pylist()
            return values

    def _table(self, group: int, columns: Sequence[str]) -> Any:
        file, place = self._groups[group]
        return self._tables[file].read_row_group(place, columns=list(columns), use_threads=False)

    def _group_bytes(self, group: int, columns: set[str]) -> int:
        file, place = self._groups[group]
        chunks = self._tables[file].metadata.row_group(place)
        parts = (chunks.column(k) for k in range(chunks.num_columns))
        return sum(part.total_compressed_size for part in parts if part.path_in_schema.split(".")[0] in columns)

    def _opened(self, file: RemoteFile) -> parquet.ParquetFile:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  optional

        try:
            # Column chunks that lie side by side are fetched in one request.
            return parquet.ParquetFile(self._open(file), pre_buffer=True)
        except (ArrowException, OSError) as error:
            raise BadModel(f"{self.listing.id}: {file.name} is not a valid parquet file ({_short(error)}).") from None

    @contextmanager
    def _damage(self, group: int) -> Iterator[None]:
        """Raises BadModel for a row group that cannot be read."""
        from pyarrow import ArrowException  # noqa: PLC0415  optional

        try:
            yield
        except (ArrowException, OSError, ValueError) as error:
            raise BadModel(f"{self._name(group)} is damaged ({_short(error)}).") from None

    def _name(self, group: int) -> str:
        file, place = self._groups[group]
        return f"Row group {place} of {self._files[file].name}"


def check_pyarrow() -> None:
    """Raises BadInput if the extra is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415  optional
    except ImportError:
        raise BadInput(
            'Reading datasets of the Hub needs pyarrow. Install it: pip install "vlm-quant-playground[suites]".'
        ) from None


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _kind(type: Any) -> str:
    from pyarrow import types  # noqa: PLC0415  optional

    if types.is_struct(type):
        return "image" if {"bytes", "path"} <= {type.field(k).name for k in range(type.num_fields)} else "other"
    if types.is_list(type) or types.is_large_list(type):
        inner = _kind(type.value_type)
        return "image" if inner == "image" else "list"
    if types.is_binary(type) or types.is_large_binary(type):
        return "image"
    if types.is_string(type) or types.is_large_string(type):
        return "text"
    return "number" if types.is_integer(type) or types.is_floating(type) else "other"
