from __future__ import annotations

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler

from llama_index.embeddings.autoreg import AutoRegEmbedding


@pytest.fixture
def embedding(how) -> AutoRegEmbedding:
    return AutoRegEmbedding(**how)


class Events(BaseEventHandler):
    """Collects what the dispatcher is told."""

    seen: list = []  # noqa: RUF012 - pydantic copies it for each object

    @classmethod
    def class_name(cls):
        return "Events"

    def handle(self, event, **_):
        self.seen.append(event)


@pytest.fixture
def events():
    handler = Events()
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler.seen
    root.event_handlers.remove(handler)
