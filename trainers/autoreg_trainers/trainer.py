"""The training loop: transformers' own, with steps worked off in micro-batches."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import save_fsdp_optimizer
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME

from autoreg_rag.errors import ModelError
from autoreg_rag.files import write_whole
from autoreg_trainers import health
from autoreg_trainers.checkpoints import (
    drop_checkpoints,
    last_checkpoint,
    mark_complete,
    steps_done,
    unwritten_named,
)
from autoreg_trainers.objectives import Objective, Outcome
from autoreg_trainers.objectives.objective import Row
from autoreg_trainers.ranges import MIN_TOKEN_BUDGET
from autoreg_trainers.sharding import fill, gather, make_shardable, own_part, root_held, whole

logger = logging.getLogger(__name__)

Figures = dict[str, tuple[float, int]]
"""Sum and count of what is reported, by name."""

WEIGHTS_FILE = "trainable.safetensors"
_NECK_VECTORS = ("neck.compress_tokens", "neck.bridge_start")


class AutoRegTrainer(Trainer):
    """Minimises an `Objective` over batches of rows.

    A batch is worked off in parts that fit a budget of tokens; gradients are
    those of the whole batch. When memory runs out the budget is halved and the
    batch starts over. Processes exchange gradients once per batch.

    Parameters
    ----------
    objective
        What is minimised; it holds the model.
    args
        Of transformers. The batch size per device counts rows of one optimizer
        step; gradient accumulation is not needed.
    neck_learning_rate
        Of compress tokens and b, which start far from where they end. The bridge's
        matrix, which has been fitted, moves with the rest.
    keep_checkpoints
        How many complete checkpoints are kept.
    sampler
        The order of the rows; by default they are shuffled.
    **kwargs
        Datasets and callbacks, see `transformers.Trainer`.
    """

    objective: Objective

    def __init__(
        self,
        objective: Objective,
        args: TrainingArguments,
        *,
        neck_learning_rate: float,
        keep_checkpoints: int = 2,
        sampler: Sampler[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(objective, args, data_collator=_as_batch, **kwargs)
        self.objective = objective
        self.neck_learning_rate = neck_learning_rate
        self.keep_checkpoints = keep_checkpoints
        self.sampler = sampler
        self.token_budget = objective.token_budget
        self._figures: Figures = {}
        self._vectors: list[tuple[Tensor, Tensor]] = []
        if self._sharded:
            make_shardable(objective)

    @property
    def _sharded(self) -> bool:
        """Whether processes hold parts of the weights, so all must make the same passes."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer: two learning rates, and no weight decay on vectors and the neck."""
        if self.optimizer is None:
            groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
            for name, parameter in (model or self.objective).named_parameters():
                if parameter.requires_grad:
                    undecayed = ".neck." in name or parameter.dim() < 2
                    decay = 0.0 if undecayed else self.args.weight_decay
                    vectors = name.endswith(_NECK_VECTORS)
                    rate = self.neck_learning_rate if vectors else self.args.learning_rate
                    groups[rate, decay].append(parameter)
            kind, kwargs = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(
                [
                    {"params": parameters, "lr": rate, "weight_decay": decay}
                    for (rate, decay), parameters in groups.items()
                ],
                **kwargs,
            )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return self.sampler or super()._get_train_sampler(train_dataset)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add a batch's gradients; return its mean loss per unit, this process's share."""
        model.train()
        rows: list[Row] = inputs["batch"].rows
        # What processes exchange is not in the loop, which each may run a different
        # number of times.
        units = self._over_processes({"units": (float(sum(map(self.objective.units, rows))), 1)})
        while True:
            try:
                with root_held(self.objective):
                    loss = self._gradients(model, rows, _processes() / units["units"][0])
                break
            except (RuntimeError, MemoryError) as error:
                self._make_room(error)
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
        if _processes() > 1 and not self.is_deepspeed_enabled:
            self._complete_gradients()
        if isinstance(model, DistributedDataParallel):
            self._average_gradients()
        self._refuse_divergence()
        return loss

    def _refuse_divergence(self) -> None:
        """Raise where gradients are not finite, in all processes: weights would not be either."""
        held = (parameter.grad for parameter in self.objective.parameters())
        own = [own_part(gradient) for gradient in held if gradient is not None]
        finite = bool(torch.stack(torch._foreach_norm(own)).isfinite().all()) if own else True
        finite_in, processes = self._over_processes({"": (float(finite), 1)})[""]
        if finite_in == processes:
            return
        checkpoint = last_checkpoint(Path(str(self.args.output_dir)))
        before = (
            ""
            if checkpoint is None
            else (
                f"; --resume --max-steps {steps_done(checkpoint)} gives the model of {checkpoint}"
            )
        )
        raise ModelError(
            f"step {self.state.global_step + 1}: the gradients are not finite; begin again with a "
            f"lower --learning-rate{before}"
        )

    def _make_room(self, error: Exception) -> None:
        """Halve the budget after running out of memory; raise what is another error."""
        memory = isinstance(error, MemoryError) or should_reduce_batch_size(error)
        # Where other processes wait in the middle of this one's passes it cannot start over.
        waited_for = self._sharded or (_processes() > 1 and self.objective.exchanges)
        if not memory or waited_for or self.token_budget <= MIN_TOKEN_BUDGET:
            raise error
        self.token_budget = self.objective.token_budget = self.token_budget // 2
        logger.warning(
            "out of memory at step %d: going on with micro-batches of %d tokens",
            self.state.global_step,
            self.token_budget,
        )

    def _gradients(self, model: nn.Module, rows: list[Row], scale: float) -> Tensor:
        """Add the gradients of the rows' loss times `scale`; return that, and keep the figures."""
        # Past DDP, which would exchange gradients with each pass: processes may make
        # different numbers of passes. Sharded weights have their own way.
        module = model.module if isinstance(model, DistributedDataParallel) else model
        loss = torch.zeros((), device=self.args.device)
        outcomes = []
        parts = list(self._parts(rows))
        for last, part in ((i == len(parts) - 1, part) for i, part in enumerate(parts)):
            with self._synchronised(model, last):
                outcome: Outcome = module(part)
                share = outcome.loss * scale
                self.accelerator.backward(share)
            loss += share.detach()
            outcomes.append(outcome)
        self._vectors = []
        for outcome in outcomes:
            self._record(outcome)
        return loss

    @contextmanager
    def _synchronised(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Let sharded weights exchange gradients after the last part only."""
        if self.is_deepspeed_enabled:
            # Its engine also makes the optimizer's step with the last part.
            self.accelerator.sync_gradients = last
            yield
        elif self._sharded and not last:
            with self.accelerator.no_sync(model):
                yield
        else:
            yield

    def _parts(self, rows: list[Row]) -> Iterator[list[Row]]:
        parts = list(self.objective.parts(rows, self.token_budget))
        if not self._sharded or not self.objective.separable:
            yield from parts
            return
        # The same number in every process; there are never more parts than rows.
        count = torch.tensor(len(parts), device=self.args.device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        for positions in np.array_split(np.arange(len(rows)), int(count)):
            yield [rows[i] for i in positions]

    def _complete_gradients(self) -> None:
        """Give all that is trained a gradient, so that processes' optimizers hold the same."""
        for parameter in self.objective.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _average_gradients(self) -> None:
        for parameter in self.objective.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()

    def _over_processes(self, sums: Figures) -> Figures:
        """Return each figure's sum and count over all processes, whichever have it."""
        if _processes() == 1:
            return dict(sums)
        everyone: list[Figures] = [{}] * dist.get_world_size()
        dist.all_gather_object(everyone, dict(sums))
        totals: Figures = {}
        for part in everyone:
            _add(totals, part)
        return totals

    def _record(self, outcome: Outcome) -> None:
        _add(self._figures, outcome.sums)
        if outcome.vectors is not None:
            self._vectors.append(outcome.vectors)

    def _drained(self) -> dict[str, float]:
        """Return the means of all figures since the last call, and the health of own vectors."""
        sums = self._over_processes(self._figures)
        self._figures = {}
        means = {name: total / count for name, (total, count) in sorted(sums.items()) if count}
        if self._vectors:
            queries, documents = map(torch.cat, zip(*self._vectors, strict=True))
            means["alignment"] = float(health.alignment(queries, documents))
            means["uniformity"] = float(health.uniformity(documents))
            means["effective_rank"] = float(health.effective_rank(documents))
        return means

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the objective's figures beside the loss."""
        if "loss" in logs:
            logs |= self._drained()
            logs["token_budget"] = self.token_budget
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the objective's figures on held-back rows."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        kept, self._figures, self._vectors = self._figures, {}, []
        self.objective.eval()
        with torch.no_grad(), root_held(self.objective):
            for batch, counted in self._held_back(len(dataset)):
                outcome: Outcome = self.objective([dataset[i] for i in batch])
                if counted:
                    self._record(outcome)
                    _add(self._figures, {"loss": (float(outcome.loss), outcome.units)})
        means = self._drained()
        self._figures, self._vectors = kept, []
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        super().log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def held_back_figures(self) -> dict[str, float]:
        """Return the figures on held-back rows at this step; evaluate unless that was done."""
        for entry in reversed(self.state.log_history):
            if entry["step"] == self.state.global_step and "eval_loss" in entry:
                return {name: value for name, value in entry.items() if name.startswith("eval_")}
        return self.evaluate()

    def _held_back(self, count: int) -> Iterator[tuple[range, bool]]:
        """Yield this process's batches of `count` rows, and whether they count here.

        Batches are the same however many processes there are.
        """
        world, rank = self.args.world_size, self.args.process_index
        size = self.args.per_device_eval_batch_size
        batches = [range(start, min(start + size, count)) for start in range(0, count, size)]
        # With sharded weights all make the same passes: also those that do not go round.
        shared = count // (world * size) * world if self._sharded else len(batches)
        for number, batch in enumerate(batches):
            if number >= shared:
                yield batch, rank == 0
            elif number % world == rank:
                yield batch, True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained; the frozen base is not copied into each checkpoint."""
        state = {
            name: whole(value.detach()).cpu().contiguous()
            for name, value in self._own_state().items()
        }
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / WEIGHTS_FILE, save(state))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # As transformers does, less the weights.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        state = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
        own = self._own_state()
        for name, value in state.items():
            fill(own[name], value)

    def _own_state(self) -> dict[str, Tensor]:
        """Return what is trained, and what the neck was fitted to, by name."""
        values = [*self.objective.named_parameters(), *self.objective.named_buffers()]
        return {name: value for name, value in values if value.requires_grad or ".neck." in name}

    def gather(self) -> None:
        """Put sharded weights together again, in every process, to be saved."""
        if self._sharded:
            gather(self.objective)

    def restore(self, checkpoint: Path) -> None:
        """Take the weights and the log of a checkpoint, for a run that has ended."""
        self.remove_callback(TensorBoardCallback)  # its log has ended as well
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with unwritten_named(self.args.output_dir):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes a part
        if self.args.should_save:
            folder = Path(str(self.args.output_dir))
            mark_complete(folder / f"checkpoint-{self.state.global_step}")
            # Not by transformers, which would delete before the new one is complete.
            drop_checkpoints(folder, self.keep_checkpoints)


@dataclass
class _Batch:
    """Rows that accelerate does not look through, number by number, for tensors to move."""

    rows: list[Row]


def _as_batch(rows: list[Row]) -> dict[str, _Batch]:
    return {"batch": _Batch(rows)}


def _add(totals: Figures, sums: Figures) -> None:
    for name, (total, count) in sums.items():
        before = totals.get(name, (0.0, 0))
        totals[name] = before[0] + total, before[1] + count


def _processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
