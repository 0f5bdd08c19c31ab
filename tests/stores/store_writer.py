"""A process that indexes, as the pipeline does, and dies where a test wants it to."""

import os
import signal
import sqlite3
import sys
from pathlib import Path

import numpy as np
from store_cases import chunks, create, vector_of

from autoreg_rag.errors import StoreError
from autoreg_rag.stores import FileRecord, open_store
from tests.forkserver import processes

FIRST = {"c/a": ("1", 13), "c/b": ("1", 6), "c/c": ("1", 9), "c/d": ("1", 1)}
SECOND = {"c/a": ("1", 13), "c/b": ("2", 8), "c/d": ("2", 4), "c/e": ("1", 5)}
"""Corpora: a version and a number of chunks for each source."""

BATCH = 4


def run(
    kind: str, folder: Path, corpora=(FIRST, SECOND), die_at: int = 0, parent_kills_at: int = 0
) -> int | None:
    """Index some corpora, one after the other, in a process of its own.

    Parameters
    ----------
    die_at
        The process kills itself before this event of its file system or database.
    parent_kills_at
        It is killed from outside, some time after this many batches were stored.

    Returns
    -------
    How many events there were; None if the process was killed.
    """
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_work, args=(kind, folder, corpora, die_at, sender))
    process.start()
    sender.close()
    received = []
    try:
        while True:
            received.append(receiver.recv())
            if len(received) == parent_kills_at:
                process.kill()
    except EOFError:
        process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0
    return received[-1]


def in_process(target, *arguments) -> StoreError | None:
    """Call a function in a process of its own; return the `StoreError` it ends with, if any."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_report, args=(target, arguments, sender))
    process.start()
    sender.close()
    error = receiver.recv()
    process.join()
    assert process.exitcode == 0
    return error


def open_briefly(folder: Path, writable: bool) -> None:
    open_store(folder, writable=writable).close()


def index(store, corpus, progress=lambda: None) -> None:
    """Bring a store to hold a corpus, whatever an earlier run left in it."""
    for source, (version, count) in corpus.items():
        if store.file(source) == FileRecord(source, version, count):
            continue
        batches = chunks(source, count, version)
        for start in range(0, count, BATCH):
            batch = batches[start : start + BATCH]
            there = store.present([chunk.id for chunk in batch])
            missing = [chunk for chunk in batch if chunk.id not in there]
            if missing:
                store.add(missing, np.array([vector_of(chunk.id) for chunk in missing]), version)
                progress()
        store.finish_file(FileRecord(source, version, count))
    store.add(chunks("c/bad", 2), np.array([vector_of(c.id) for c in chunks("c/bad", 2)]), "1")
    store.discard("c/bad", "1")
    for source in set(store.sources()) - set(corpus):
        store.remove_file(source)
    store.optimize()


def _work(kind, folder, corpora, die_at, sender) -> None:
    events = _Events(die_at)
    with create(kind, folder) as store:
        for corpus in corpora:
            index(store, corpus, lambda: sender.send(None))
    sender.send(events.count)


def _report(target, arguments, sender) -> None:
    try:
        sender.send(target(*arguments))
    except StoreError as error:
        sender.send(error)


class _Events:
    """Counts what changes files: system calls that Python knows of, and SQL statements."""

    _CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

    def __init__(self, die_at: int) -> None:
        self.count = 0
        self._die_at = die_at
        fsync, connect = os.fsync, sqlite3.connect

        def counted_fsync(descriptor):
            self._happen()
            fsync(descriptor)
            self._happen()

        def traced_connect(*args, **kwargs):
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(self._statement)
            return connection

        os.fsync, sqlite3.connect = counted_fsync, traced_connect
        sys.addaudithook(self._call)

    def _call(self, event, _) -> None:
        if event in self._CALLS:
            self._happen()

    def _statement(self, sql) -> None:
        if not sql.lstrip("- ").upper().startswith(("SELECT", "PRAGMA")):
            self._happen()

    def _happen(self) -> None:
        self.count += 1
        if self.count == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
