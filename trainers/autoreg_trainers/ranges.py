"""Which values settings may have."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from autoreg_rag.errors import ModelError

if TYPE_CHECKING:
    from autoreg_trainers.settings import TrainingSettings

MIN_TOKEN_BUDGET = 64

_LEAST = {
    "batch_size": 1,
    "token_budget": MIN_TOKEN_BUDGET,
    "lora_rank": 1,
    "lora_alpha": 1,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "held_back": 0,
    "bridge_rows": 0,
    "eval_steps": 0,
    "probe_steps": 0,
    "probe_queries": 1,
    "probe_documents": 1,
    "probe_pairs": 1,
    "logging_steps": 1,
    "save_steps": 0,
    "save_minutes": 0,
    "num_compress_tokens": 1,
    "max_length": 1,
    "max_rows": 1,
    "max_group": 1,
    "max_tokens": 1,
    "max_target": 1,
    "max_minutes": 0,
    "keep_checkpoints": 1,
    "negatives": 0,
    "in_batch_negatives": 0,
    "contrastive_weight": 0,
    "compression_weight": 0,
    "teacher_weight": 0,
    "teacher_cosine_weight": 0,
    "seed": 0,
}
_POSITIVE = ("learning_rate", "neck_learning_rate", "epochs", "beta", "tau", "contrastive_tau")
_BELOW_1 = ("warmup", "lora_dropout")
_MAX_SEED = 2**32 - 1
"""NumPy's."""

# Those of transformers that need nothing but the number of steps.
_SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_with_restarts",
    "inverse_sqrt",
    "linear",
    "polynomial",
)


def check_settings(settings: TrainingSettings) -> None:
    """Refuse settings that no run can have.

    Raises
    ------
    ModelError
        No data is named, or a value is out of its range.
    """
    if not settings.sources:
        raise ModelError("no training data is named; give --sources")
    for field in fields(settings):
        _check_value(field.name, getattr(settings, field.name))


def _check_value(name: str, value: Any) -> None:
    """Refuse a number out of its range, and NaN, which no comparison holds for."""
    if value is None:
        return
    if name in _LEAST and not _LEAST[name] <= value < math.inf:
        raise ModelError(f"{name} is {value}; it must be {_LEAST[name]} or more")
    if name in _POSITIVE and not 0 < value < math.inf:
        raise ModelError(f"{name} is {value}; it must be above 0")
    if name in _BELOW_1 and not 0 <= value < 1:
        raise ModelError(f"{name} is {value}; it must be from 0 to below 1")
    if name == "distillation" and not 0 <= value <= 1:
        raise ModelError(f"{name} is {value}; it must be from 0 to 1")
    if name == "seed" and value > _MAX_SEED:
        raise ModelError(f"{name} is {value}; it must be at most {_MAX_SEED}")
    if name == "max_steps" and value != -1 and value < 1:
        raise ModelError(f"max_steps is {value}; it must be 1 or more, or -1 for all epochs")
    if name == "schedule" and value not in _SCHEDULES:
        raise ModelError(f"schedule is {value!r}; it must be one of {', '.join(_SCHEDULES)}")
