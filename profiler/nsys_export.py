"""Opens an SQLite export of Nsight Systems: read-only, beside a temporary database that holds every index and result.

The schema differs between versions of nsys, and tables without rows are left out, so everything is looked up before
it is read.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_CACHE_KIB = 8 * 1024
# Any of these makes an SQLite file an export of nsys; none of them is in every export.
_KNOWN = ("META_DATA_EXPORT", "EXPORT_META_DATA", "StringIds", "NVTX_EVENTS", "TARGET_INFO_SYSTEM_ENV")


class Export:
    """An export, attached read-only under the schema name ``export``; ``main`` is temporary and on disk.

    Args:
        path: the SQLite file; it is never written to.

    Raises:
        ValueError: no file, an empty one, none of SQLite, a truncated one, or no export of Nsight Systems.
    """

    def __init__(self, path: Path) -> None:
        _check_file(path)
        self.path = path
        # An empty name is a private database in a temporary file: sorts and indexes spill there, not into memory.
        self.db = sqlite3.connect("", uri=True, isolation_level=None)
        with reading(path):
            try:
                self.db.execute(f"PRAGMA main.cache_size = -{_CACHE_KIB}")
                self.db.execute("PRAGMA temp_store = FILE")
                self.db.execute("PRAGMA main.journal_mode = OFF")
                self.db.execute("PRAGMA main.synchronous = OFF")
                self.db.execute("ATTACH ? AS export", (f"{path.resolve().as_uri()}?mode=ro&immutable=1",))
                self._columns = self._look_up()
            except sqlite3.Error:
                self.db.close()
                raise
        if not any(table in self._columns for table in _KNOWN):
            self.db.close()
            held = ", ".join(sorted(self._columns)[:3]) or "none"
            raise ValueError(
                f"{path} is an SQLite file, but no export of Nsight Systems (tables: {held}); "
                "nsys export --type sqlite makes one"
            )

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.db.close()

    def _look_up(self) -> dict[str, frozenset[str]]:
        names = self.db.execute("SELECT name FROM export.sqlite_master WHERE type IN ('table', 'view')")
        return {
            name: frozenset(row[1] for row in self.db.execute(f'PRAGMA export.table_info("{name}")'))
            for (name,) in names.fetchall()
        }

    def has(self, table: str, *columns: str) -> bool:
        """Whether the export has a table with all of these columns."""
        return table in self._columns and self._columns[table].issuperset(columns)

    def first(self, tables: Sequence[str], *columns: str) -> str | None:
        """The first of some tables that is there with these columns."""
        return next((table for table in tables if self.has(table, *columns)), None)

    def column(self, table: str, *names: str, default: str = "NULL") -> str:
        """The first of some columns that the table has, quoted for SQL, else ``default``."""
        return next((f'"{name}"' for name in names if name in self._columns[table]), default)

    def meta(self, name: str) -> str | None:
        """An entry of the export's description of itself, such as ``EXPORT_PRODUCT_VERSION``."""
        table = self.first(("META_DATA_EXPORT", "EXPORT_META_DATA"), "name", "value")
        if table is None:
            return None
        row = self.db.execute(f"SELECT value FROM export.{table} WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def gpus(self) -> list[str]:
        """Names of the GPUs of the machine that was traced."""
        if not self.has("TARGET_INFO_GPU", "name"):
            return []
        return [str(row[0]) for row in self.db.execute("SELECT name FROM export.TARGET_INFO_GPU ORDER BY id")]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about a file into sentences.

    Raises:
        ValueError: the file is damaged.
        OSError: the temporary database does not fit on its disk.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise OSError(
                f"no room for the indexes of {path} in the temporary folder; SQLITE_TMPDIR names another one"
            ) from error
        if "disk I/O error" not in str(error):
            raise
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is no file; expected an .sqlite export or an .nsys-rep of Nsight Systems")
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path} is empty (0 bytes): the export was interrupted before anything was written")
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header.startswith(_MAGIC):
        raise ValueError(f"{path} is not an SQLite file; nsys export --type sqlite makes one of an .nsys-rep")
    expected = _expected_bytes(header)
    if size < expected:
        raise ValueError(f"{path} is truncated: {size} bytes of {expected}; export or copy it again")
    for suffix in ("-journal", "-wal"):
        beside = path.with_name(path.name + suffix)
        if beside.is_file() and beside.stat().st_size:
            raise ValueError(f"{path} is unfinished: {beside.name} lies beside it; let the export end first")


def _expected_bytes(header: bytes) -> int:
    """Bytes that a file with this header has; 0 where the header does not say."""
    if len(header) < _HEADER_BYTES:
        return _HEADER_BYTES
    (page,) = struct.unpack(">H", header[16:18])
    changes, pages = struct.unpack(">II", header[24:32])
    (counted_at,) = struct.unpack(">I", header[92:96])
    return (65536 if page == 1 else page) * pages if changes == counted_at else 0
