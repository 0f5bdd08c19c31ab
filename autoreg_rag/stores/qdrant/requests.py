"""Requests that a Qdrant server takes: bounded in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from qdrant_client import models

_REQUEST_BYTES = 4_000_000

Item = TypeVar("Item", models.PointStruct, models.OverwritePayloadOperation)


def request_bodies(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Divide points or changes into requests of less than 4 MB; one that is larger goes alone."""
    request: list[Item] = []
    size = 0
    for item in items:
        bytes_ = len(item.model_dump_json().encode())
        if request and size + bytes_ > _REQUEST_BYTES:
            yield request
            request, size = [], 0
        request.append(item)
        size += bytes_
    if request:
        yield request
