"""The way of every training run: model, rows, objective, loop, model folder."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import PartialState
from datasets import LargeList, List
from numpy.typing import NDArray
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from autoreg_rag.cli import print_json
from autoreg_rag.config import Stage
from autoreg_rag.device import choose_device
from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel
from autoreg_rag.pretrained import DEFAULT_BASE
from autoreg_trainers.acceleration import avoid_planning, compile_layers, training_attention
from autoreg_trainers.adaptation import rounded, trainable
from autoreg_trainers.arguments import save_effective
from autoreg_trainers.callbacks import Clock, Progress
from autoreg_trainers.checkpoints import last_checkpoint, steps_done
from autoreg_trainers.curve import draw_curve
from autoreg_trainers.data import held_back
from autoreg_trainers.objectives import Objective
from autoreg_trainers.probe import Probe, ProbeCallback
from autoreg_trainers.resuming import bind_rows, check_same_run
from autoreg_trainers.sampling import SourceSampler
from autoreg_trainers.settings import TrainingSettings
from autoreg_trainers.trainer import AutoRegTrainer

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
CHECKPOINT_FOLDER = "checkpoints"
ROWS_FILE = "rows.sha256"
SETTINGS_FILE = "settings.yaml"
CURVE_FILE = "curve.png"

_MODEL_SETTINGS = (
    "num_compress_tokens",
    "query_instruction",
    "document_instruction",
    "pooling",
    "max_length",
)


@dataclass
class Recipe:
    """What one kind of training does its own way.

    Attributes
    ----------
    stage
        What the model is afterwards.
    rows
        Gives the training rows.
    objective
        Gives the objective, on the model with its trainable weights.
    prepare
        Changes the rows, with the objective on the model as it was loaded. All processes
        call it together.
    begin
        Changes the model, with that same objective and the rows to train on, where no checkpoint
        holds what came of it.
    callbacks
        Gives more callbacks for the loop.
    """

    stage: Stage
    rows: Callable[[AutoRegModel], Dataset]
    objective: Callable[[AutoRegModel], Objective]
    prepare: Callable[[Any, Dataset], Dataset] = lambda objective, rows: rows
    begin: Callable[[Any, Dataset], None] = lambda objective, training: None
    callbacks: Callable[[Any], list[TrainerCallback]] = lambda objective: []


def train(settings: TrainingSettings, recipe: Recipe) -> dict[str, float]:
    """Run a training from its settings to a model folder.

    Leaves in ``settings.out``: ``model/``, ``settings.yaml`` (all effective
    values), ``curve.png``, ``checkpoints/`` with TensorBoard's logs.

    Returns
    -------
    dict
        The objective's figures on held-back rows, at the end.

    Raises
    ------
    AutoRegError
        Settings, data or model cannot be used.
    """
    clock = Clock(settings.save_minutes, settings.max_minutes)
    state = join_processes(settings)
    out = Path(settings.out)
    if settings.batch_size % state.num_processes:
        raise ModelError(
            f"a batch of {settings.batch_size} rows cannot be shared by {state.num_processes} "
            "processes"
        )
    checkpoint = _begun(settings, out)
    probe = _probe(settings)
    set_seed(settings.seed)
    model = load_model(settings, recipe.stage)
    compile_layers(model, settings.compile)
    # One process tokenises; the others find what it left.
    with state.main_process_first():
        rows = short_rows(settings, recipe.rows(model))
    loaded = build_objective(settings, recipe, model)
    rows = recipe.prepare(loaded, rows)
    training, held = held_back(rows, min(settings.held_back, len(rows) // 5), settings.seed)
    if len(training) < settings.batch_size:
        raise ModelError(
            f"there are {len(training)} rows to train on, fewer than the batch size "
            f"{settings.batch_size}"
        )
    if checkpoint is None:
        recipe.begin(loaded, training)
    prepared = trainable(
        model,
        settings.tuning,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        target_modules=target_modules(settings),
    )
    compile_layers(prepared, settings.compile)
    objective = build_objective(settings, recipe, prepared)
    sampler = _sampler(settings, training)
    trainer = AutoRegTrainer(
        objective,
        _arguments(settings, out, len(held), state.num_processes, prepared.backbone.device.type),
        neck_learning_rate=settings.neck_learning_rate or 10 * settings.learning_rate,
        keep_checkpoints=settings.keep_checkpoints,
        sampler=sampler,
        train_dataset=training,
        eval_dataset=held,
        callbacks=[clock],
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    for callback in [Progress(), *recipe.callbacks(objective)]:
        trainer.add_callback(callback)
    if probe is not None:
        trainer.add_callback(ProbeCallback(probe, trainer, prepared, settings.probe_steps))
    bind_rows(training, out / CHECKPOINT_FOLDER / ROWS_FILE, begun=checkpoint is not None)
    if state.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        save_effective(settings, out / SETTINGS_FILE)
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
        if sampler is not None:
            # Of several processes accelerate's wrappers hide it where a pass is gone on with.
            sampler.set_epoch(steps_done(checkpoint) // (len(training) // settings.batch_size))
    if checkpoint is not None and steps_done(checkpoint) >= _steps(settings, len(training)):
        trainer.restore(checkpoint)  # transformers would make one step more
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    figures = trainer.held_back_figures() if len(held) else {}
    trainer.gather()
    if state.is_main_process:
        export(rounded(prepared), out / MODEL_FOLDER)
        draw_curve(trainer.state.log_history, out / CURVE_FILE)
    state.wait_for_everyone()
    return figures


def build_objective(settings: TrainingSettings, recipe: Recipe, model: AutoRegModel) -> Objective:
    """Return what a recipe minimises on a model, as the settings bound it."""
    objective = recipe.objective(model)
    objective.max_target = settings.max_target
    return objective


def _sampler(settings: TrainingSettings, rows: Dataset) -> SourceSampler | None:
    if settings.batches == "mixed":
        return None
    return SourceSampler(rows["source"], settings.batch_size, settings.seed)


def _steps(settings: TrainingSettings, rows: int) -> int:
    """Return how many steps a run has."""
    if settings.max_steps > 0:
        return settings.max_steps
    return math.ceil(settings.epochs * (rows // settings.batch_size))


def join_processes(settings: TrainingSettings) -> PartialState:
    """Join the processes that were started together, or be the only one."""
    # Without a GPU they meet on the CPU only if that is said. One may prepare for hours
    # while the others wait.
    place = choose_device(settings.device)
    state = PartialState(cpu=place.type == "cpu", timeout=timedelta(days=1))
    if place.index and state.num_processes == 1:
        raise ModelError(
            f"one process trains on the first GPU that it sees, not on {place}; set "
            f"CUDA_VISIBLE_DEVICES={place.index} and leave --device out"
        )
    return state


def print_figures(figures: dict[str, float]) -> None:
    """Print figures as JSON, which has no word for NaN, on standard output, once."""
    if PartialState().is_main_process:
        print_json({name: value for name, value in figures.items() if math.isfinite(value)})


def short_rows(settings: TrainingSettings, rows: Dataset) -> Dataset:
    """Return the rows without those that have a text of more than ``settings.max_tokens``."""
    if settings.max_tokens is None:
        return rows
    longest = np.zeros(len(rows), dtype=np.int64)
    for name, kind in rows.features.items():
        if isinstance(kind, List | LargeList):
            table = rows.select_columns([name]).with_format("arrow")[:]
            longest = np.maximum(longest, _longest(table[name].combine_chunks()))
    kept = np.flatnonzero(longest <= settings.max_tokens)
    if not len(kept):
        raise ModelError(
            f"none of the {len(rows)} rows has texts of at most {settings.max_tokens} tokens only; "
            "raise --max-tokens"
        )
    logger.info(
        "%d of %d rows have texts of at most %d tokens", len(kept), len(rows), settings.max_tokens
    )
    return rows.select(kept)


def _longest(texts: pa.Array) -> NDArray[np.int64]:
    """Return how many token ids the longest text of each row has, of lists of ids or of texts."""
    if not pa.types.is_nested(texts.type.value_type):
        lengths: NDArray[np.int64] = texts.value_lengths().to_numpy()
        return lengths
    result = np.zeros(len(texts), dtype=np.int64)
    np.maximum.at(result, pc.list_parent_indices(texts), _longest(texts.flatten()))
    return result


def load_model(settings: TrainingSettings, stage: Stage) -> AutoRegModel:
    """Load what is to be trained, on this process's device."""
    state = PartialState()
    # Each of several processes has a device of its own.
    place = choose_device(str(state.device) if state.num_processes > 1 else settings.device)
    avoid_planning(place)
    changed = {
        name: value for name in _MODEL_SETTINGS if (value := getattr(settings, name)) is not None
    }
    if settings.tuning != "bridge":  # which leaves the encoder where it was
        changed["stage"] = stage
    return AutoRegModel.from_pretrained(
        settings.model or DEFAULT_BASE.name,
        device=str(place),
        dtype=settings.dtype,
        attention=settings.attention or training_attention(place),
        **changed,
    )


def export(model: AutoRegModel, folder: Path) -> None:
    """Write the model whole; one from before is replaced only then."""
    new, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():  # killed between the two renames
        old.rename(folder)
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def target_modules(settings: TrainingSettings) -> str | list[str]:
    """Return the adapter's targets as peft takes them."""
    names = settings.lora_targets
    return names[0] if names == ["all-linear"] else names


def _probe(settings: TrainingSettings) -> Probe | None:
    if settings.probe is None:
        return None
    return Probe(
        Path(settings.probe),
        queries=settings.probe_queries,
        documents=settings.probe_documents,
        pairs=settings.probe_pairs,
        seed=settings.seed,
    )


def _begun(settings: TrainingSettings, out: Path) -> Path | None:
    """Return the checkpoint to go on from, if any; refuse a folder of another run."""
    checkpoint = last_checkpoint(out / CHECKPOINT_FOLDER)
    if not settings.resume and (checkpoint or (out / MODEL_FOLDER).exists()):
        raise ModelError(f"{out} holds a run already; add --resume, or name another folder")
    if checkpoint is not None and (out / SETTINGS_FILE).is_file():
        check_same_run(settings, out / SETTINGS_FILE)
    return checkpoint


def _arguments(
    settings: TrainingSettings, out: Path, held: int, processes: int, device: str
) -> TrainingArguments:
    evaluate = settings.eval_steps > 0 and held > 0
    arguments = TrainingArguments(
        output_dir=str(out / CHECKPOINT_FOLDER),
        per_device_train_batch_size=settings.batch_size // processes,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=settings.eval_steps if evaluate else None,
        save_strategy="steps",
        # By the clock alone otherwise, see `Clock`.
        save_steps=settings.save_steps or 1 << 40,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        ddp_broadcast_buffers=False,
        ddp_find_unused_parameters=False,
        use_cpu=device == "cpu",
        report_to=["tensorboard"],
        disable_tqdm=None,
        accelerator_config={"dispatch_batches": False, "split_batches": False},
    )
    # Of several GPUs that one process sees, transformers would take all, by DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
