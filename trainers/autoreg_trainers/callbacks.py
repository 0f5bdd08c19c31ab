"""What happens between steps: checkpoints by the clock, a clean stop, more figures."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from autoreg_trainers.objectives import Compression

logger = logging.getLogger(__name__)


class Progress(ProgressCallback):
    """Tells figures by the log, beside transformers' bar: standard output is for the result."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line of figures."""
        if state.is_world_process_zero and logs:
            figures = [
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in logs.items()
                if name != "total_flos"
            ]
            logger.info("step %d of %d: %s", state.global_step, state.max_steps, ", ".join(figures))


class Clock(TrainerCallback):
    """Writes checkpoints every few minutes and stops after many.

    Parameters
    ----------
    save_minutes
        Between checkpoints; 0 for none by time.
    max_minutes
        From the making of the clock until a last checkpoint and the end; None for no such end.
    """

    def __init__(self, save_minutes: float, max_minutes: float | None) -> None:
        self.save_seconds = 60 * save_minutes
        self.max_seconds = None if max_minutes is None else 60 * max_minutes
        self.started = self.saved = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the minutes between checkpoints from here, and steps as this run was told."""
        self.saved = time.monotonic()
        # Those of a checkpoint are in its state, which transformers goes by.
        state.compute_steps(args, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint, and for the end, when it is time by any process's clock."""
        now = time.monotonic()
        ends = self.max_seconds is not None and now - self.started >= self.max_seconds
        due = ends or (self.save_seconds > 0 and now - self.saved >= self.save_seconds)
        if args.world_size > 1:
            # They save and stop together: one that did so alone would wait for ever.
            flags = torch.tensor([ends, due], dtype=torch.int32, device=args.device)
            dist.all_reduce(flags, dist.ReduceOp.MAX)
            ends, due = map(bool, flags.tolist())
        control.should_training_stop |= ends
        control.should_save |= due

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count them from here."""
        self.saved = time.monotonic()


class NoContext(TrainerCallback):
    """Has the loss without any context measured on the steps that are logged.

    Parameters
    ----------
    objective
        The compression that is trained.
    """

    def __init__(self, objective: Compression) -> None:
        self.objective = objective

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure on the step whose end is logged."""
        step = state.global_step + 1
        self.objective.compare = step == 1 or step % max(1, int(args.logging_steps)) == 0
