"""What this machine remembers between builds: a cache, never a truth.

One SQLite file, safe for many builds at once; deleting it costs time and nothing else. A damaged one is put
aside and begun again. It is its owner's alone (mode 0600): addresses of uploads under way are in it, and who has
one may go on with that upload.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import stat_result
from pathlib import Path
from typing import Any, TypeVar

from .errors import IntegrityError, LayerkitError
from .oci import Digest

__all__ = ["Identity", "State", "as_text"]

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, device INTEGER, inode INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, digest TEXT
);
CREATE TABLE IF NOT EXISTS records (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key));
"""
# What comes of taking a value for what it is not, RecursionError of JSON that is nested too deep.
_DAMAGE = (LayerkitError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# Coarser than any kernel's clock tick (4 to 10 ms): a file written later than this after a look at it has
# another ctime. git's index has the same problem ("racy git").
_TICK = 0.02  # seconds
_WHOLE_SECONDS = 2.0  # seconds: the same where a file system keeps no fractions of them (FAT: of two at a time)


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells, without reading it, that a file is still the same: device, inode, size (bytes), times (ns)."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, status: stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def settle(self) -> None:
        """Wait until a later change of the file must give it another ctime: before the file is read.

        At most 20 ms; 2 s where its file system counts in whole seconds.
        """
        tick = _TICK if self.ctime % 1_000_000_000 else _WHOLE_SECONDS
        age = time.time() - self.ctime / 1e9
        if 0 <= age < tick:
            time.sleep(tick - age)


class State:
    """The store. Every method is safe from any thread.

    Args:
        folder: where the file is kept; None keeps all in memory, for the length of one run.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        if self.folder is None:
            return self._connect(":memory:")
        path = self.folder / "state.sqlite"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _private(path)
            return self._connect(str(path))
        except sqlite3.OperationalError:  # no room, read-only, locked for 30 s: work without memory
            return self._connect(":memory:")
        except OSError:
            return self._connect(":memory:")
        except sqlite3.DatabaseError:
            return self._anew(path)

    def _anew(self, path: Path) -> sqlite3.Connection:
        """Another file in the place of a damaged one."""
        try:
            path.replace(path.with_suffix(".damaged"))
            _private(path)
            return self._connect(str(path))
        except (OSError, sqlite3.Error):
            return self._connect(":memory:")

    def _connect(self, path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            if path != ":memory:":
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> State:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[sqlite3.Connection]:
        # A cache that cannot be written is no reason to fail a build.
        with self._lock, contextlib.suppress(sqlite3.Error):
            try:
                yield self._connection
            except sqlite3.DatabaseError as error:
                # Damage below the first page shows only here (sqlite.org/rescode.html: the primary code's 8 bits).
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if self.folder is not None and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    self._connection.close()
                    self._connection = self._anew(self.folder / "state.sqlite")

    def file_digest(self, path: Path, identity: Identity) -> Digest | None:
        """The sha256 of the file at *path*, when it was hashed while it had this *identity*."""
        row = None
        with self._cursor() as connection:
            row = connection.execute(
                "SELECT digest FROM files WHERE path=? AND device=? AND inode=? AND size=? AND mtime=? AND ctime=?",
                (_name(path), identity.device, identity.inode, identity.size, identity.mtime, identity.ctime),
            ).fetchone()
        try:
            return Digest.parse(as_text(row[0])) if row else None
        except (IntegrityError, TypeError):
            return None

    def digest_of(self, path: Path, read: Callable[[Path], Digest]) -> Digest:
        """The digest of a file: as it is known, else what *read* makes of it, remembered if it is the same file then.

        Raises:
            OSError: it cannot be read.
        """
        identity = Identity.of(path.stat())
        digest = self.file_digest(path, identity)
        if digest is None:
            identity.settle()
            digest = read(path)
            if Identity.of(path.stat()) == identity:
                self.remember_file(path, identity, digest)
        return digest

    def remember_file(self, path: Path, identity: Identity, digest: Digest) -> None:
        """Keep that the file at *path* has *digest* as long as it has this *identity*.

        Who read it has let the identity ``settle`` before that, or cannot tell a change that came right after.
        """
        identity.settle()
        with self._cursor() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    _name(path),
                    identity.device,
                    identity.inode,
                    identity.size,
                    identity.mtime,
                    identity.ctime,
                    str(digest),
                ),
            )

    def get(self, kind: str, key: str, read: Callable[[Any], T]) -> T | None:
        """What *read* makes of the JSON value kept under *kind* and *key*, or None.

        Args:
            read: raises where the value is not what it should be (a LayerkitError, or what Python raises of a value of
                another type or shape): it is damaged then, or of another version, and is forgotten.
        """
        row = None
        with self._cursor() as connection:
            row = connection.execute("SELECT value FROM records WHERE kind=? AND key=?", (kind, key)).fetchone()
        return self._read(kind, key, row[0], read) if row else None

    def _read(self, kind: str, key: str, value: Any, read: Callable[[Any], T]) -> T | None:
        try:
            return read(json.loads(value))
        except _DAMAGE:
            self.drop(kind, key)
            return None

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a JSON *value* under *kind* and *key*."""
        with self._cursor() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, key, json.dumps(value, sort_keys=True))
            )

    def drop(self, kind: str, key: str) -> None:
        """Forget what is kept under *kind* and *key*."""
        with self._cursor() as connection:
            connection.execute("DELETE FROM records WHERE kind=? AND key=?", (kind, key))

    @contextlib.contextmanager
    def alone(self, name: str, wait: Callable[[], object]) -> Iterator[bool]:
        """Hold the lock *name*, which one thread of one process on this machine has at a time.

        The kernel takes it away from a process that is gone, however it ended (flock(2)).

        Args:
            wait: called again and again while another one has it; what it raises ends the waiting.

        Yields:
            whether another one had it. Without a state folder, or where it cannot lock, nobody is waited for.
        """
        handle, waited, ours = -1, False, False
        if self.folder is not None:
            path = self.folder / "locks" / hashlib.sha256(name.encode()).hexdigest()[:32]
            with contextlib.suppress(OSError):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                handle = _open_lock(path)
        try:
            while handle >= 0:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waited = True
                    wait()
                    continue
                except OSError:  # a file system without locks
                    ours = True
                    break
                if _is(handle, path):
                    ours = True
                    break
                os.close(handle)  # it was deleted between open and lock: somebody may hold a newer one
                handle = -1
                with contextlib.suppress(OSError):
                    handle = _open_lock(path)
            yield waited
        finally:
            if handle >= 0:
                if ours and _is(handle, path):  # who was stopped while it waited leaves the other one's alone
                    with contextlib.suppress(OSError):
                        path.unlink()
                os.close(handle)

    def all(self, kind: str, read: Callable[[Any], T]) -> dict[str, T]:
        """Every record of *kind*: key -> what *read* makes of its value, as ``get`` does."""
        rows: list[tuple[str, str]] = []
        with self._cursor() as connection:
            rows = connection.execute("SELECT key, value FROM records WHERE kind=? ORDER BY key", (kind,)).fetchall()
        found = {key: self._read(kind, key, value, read) for key, value in rows}
        return {key: value for key, value in found.items() if value is not None}


def as_text(value: Any) -> str:
    """*value*, a record that is text.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _private(path: Path) -> None:
    """Make the file *path* if there is none; in any case nobody else may read it (its WAL follows: sqlite.org/wal)."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with contextlib.suppress(OSError):
        path.chmod(0o600)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is(handle: int, path: Path) -> bool:
    """Whether *handle* is the file that *path* names now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _name(path: Path) -> str:
    """*path* as text; SQLite takes no surrogates, which names that are not UTF-8 have."""
    return str(path).encode(errors="backslashreplace").decode()
