"""Training data: sources of many shapes, mixed with weights, tokenised once.

Everything is read through the ``datasets`` library and comes back as its
`datasets.Dataset`, memory-mapped from the cache, with token ids instead of text.
"""

from autoreg_trainers.data.compression import load_compression
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.hashing import rows_hash
from autoreg_trainers.data.holding import held_back
from autoreg_trainers.data.source import Source
from autoreg_trainers.data.tasks import TASKS
from autoreg_trainers.data.triplets import load_triplets

__all__ = [
    "TASKS",
    "DataError",
    "Source",
    "held_back",
    "load_compression",
    "load_triplets",
    "rows_hash",
]
