"""A small score on retrieval and similarity sets, taken while a model trains."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.beir import RetrievalSet
from autoreg_rag.evaluate.discovery import load_sets
from autoreg_rag.evaluate.optional import require
from autoreg_rag.evaluate.retrieval import evaluate_retrieval
from autoreg_rag.evaluate.sts import STSSet, evaluate_sts
from autoreg_rag.model import AutoRegModel

logger = logging.getLogger(__name__)

PREFIX = "probe/"


class Probe:
    """Measures a model on samples of evaluation sets, the same ones each time.

    Of a retrieval set some queries are drawn, and all documents that are
    relevant to them stay among the documents that are drawn; so a sample is
    easier than its set, and its scores compare only with each other. Documents
    of the same text count as one.

    Parameters
    ----------
    folder
        Holds sets at any depth, see `autoreg_rag.evaluate`.
    queries, documents
        How many of a retrieval set are drawn; more documents where more are
        relevant.
    pairs
        How many of a similarity set are drawn.
    seed
        Of the samples. A set's sample does not depend on which others there are.

    Attributes
    ----------
    sets
        The samples.

    Raises
    ------
    EvaluationError
        The folder is missing or has no set, a set is malformed, two have one
        name, a library is not installed, or too few pairs are asked for.
    """

    def __init__(
        self,
        folder: Path,
        *,
        queries: int = 50,
        documents: int = 500,
        pairs: int = 200,
        seed: int = 0,
    ) -> None:
        for package in ("ir_measures", "scipy.stats"):
            require(package, "autoreg-rag[eval]")
        for name, number, least in (("queries", queries, 1), ("pairs", pairs, 2)):
            if number < least:
                raise EvaluationError(f"a probe of {number} {name}: it needs {least} or more")
        self.sets: dict[str, RetrievalSet | STSSet] = {}
        for dataset in load_sets(folder):
            key = f"{'retrieval' if isinstance(dataset, RetrievalSet) else 'sts'}/{dataset.name}"
            if key in self.sets or dataset.name == "mean":
                raise EvaluationError(f"{folder}: rename the set {dataset.name}; the name is taken")
            rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
            if isinstance(dataset, RetrievalSet):
                self.sets[key] = _some_queries(_without_copies(dataset), queries, documents, rng)
            else:
                self.sets[key] = _some_pairs(dataset, pairs, rng)

    def __call__(self, model: AutoRegModel) -> dict[str, float]:
        """Measure a model as it is now; it and the random numbers go on as if nothing were.

        Returns
        -------
        dict of str to float
            ``retrieval/<set>``, nDCG@10, and ``sts/<file>``, Spearman's
            correlation, each times 100, and ``retrieval/mean`` and ``sts/mean``
            where there are such sets.
        """
        scores: dict[str, float] = {}
        with _at_inference(model):
            for key, dataset in self.sets.items():
                if isinstance(dataset, RetrievalSet):
                    (result,) = evaluate_retrieval(dataset, [model], bm25=False)
                    scores[key] = 100 * result.metrics["nDCG@10"]
                else:
                    (result,) = evaluate_sts(dataset, [model])
                    scores[key] = 100 * result.metrics["Spearman"]
        for kind in ("retrieval", "sts"):
            if values := [score for key, score in scores.items() if key.startswith(f"{kind}/")]:
                scores[f"{kind}/mean"] = fmean(values)
        return scores


class ProbeCallback(TrainerCallback):
    """Logs a probe's scores as ``probe/...``, on the main process.

    Where processes hold parts of the weights (FSDP, DeepSpeed) it only warns.

    Parameters
    ----------
    probe
        What to measure.
    trainer
        Whose log the scores join.
    model
        What it trains.
    steps
        Measure every so many steps, and at the end; 0 for the end alone.
    """

    def __init__(self, probe: Probe, trainer: Trainer, model: AutoRegModel, steps: int = 0) -> None:
        self.probe = probe
        self.trainer = trainer
        self.sharded = bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
        if self.sharded:
            logger.warning("no probe is taken: one process alone does not hold all weights")
        self.model = model
        self.steps = steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure when it is time."""
        due = self.steps > 0 and state.global_step % self.steps == 0
        # At the end too, as the loggers close before a callback that was added late.
        if due or control.should_training_stop:
            self._measure(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure at the end, wherever it came."""
        self._measure(state, control)

    def _measure(self, state: TrainerState, control: TrainerControl) -> None:
        if self.sharded or not state.is_world_process_zero or _is_logged(state):
            return
        should_log = control.should_log
        self.trainer.log({f"{PREFIX}{key}": score for key, score in self.probe(self.model).items()})
        control.should_log = should_log  # `log` takes the step's own figures for logged


def _is_logged(state: TrainerState) -> bool:
    return any(
        entry["step"] == state.global_step and any(key.startswith(PREFIX) for key in entry)
        for entry in state.log_history
    )


@contextmanager
def _at_inference(model: AutoRegModel) -> Iterator[None]:
    """Have a model compute as a saved one would, then leave all as it was."""
    device, dtype = model.backbone.device, model.backbone.dtype
    training = [module for module in model.modules() if module.training]
    devices = [device] if device.type == "cuda" else []
    model.eval()
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(),
            # Weights that train are float32; all compute in the base's format.
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        ):
            yield
    finally:
        for module in training:
            module.training = True


def _without_copies(dataset: RetrievalSet) -> RetrievalSet:
    """Leave one document of each text, which answers what its copies answer."""
    first: dict[str, str] = {}
    kept = {
        # A query's own document stays apart: it must not be found for that query.
        id_: id_ if id_ in dataset.own else first.setdefault(" ".join(text.split()), id_)
        for id_, text in dataset.documents.items()
    }
    qrels: dict[str, dict[str, int]] = {}
    for query, judged in dataset.qrels.items():
        merged = qrels.setdefault(query, {})
        for id_, score in judged.items():
            place = kept.get(id_, id_)
            merged[place] = max(score, merged.get(place, score))
    documents = {id_: text for id_, text in dataset.documents.items() if kept[id_] == id_}
    return replace(dataset, documents=documents, qrels=qrels)


def _some_queries(
    dataset: RetrievalSet, queries: int, documents: int, rng: np.random.Generator
) -> RetrievalSet:
    asked = _sample(list(dataset.queries), queries, rng)
    qrels = {query: dataset.qrels[query] for query in asked}
    relevant = {id_ for judged in qrels.values() for id_, score in judged.items() if score > 0}
    others = [id_ for id_ in dataset.documents if id_ not in relevant]
    found = relevant & dataset.documents.keys()
    drawn = found | set(_sample(others, max(0, documents - len(found)), rng))
    return replace(
        dataset,
        documents={id_: text for id_, text in dataset.documents.items() if id_ in drawn},
        queries={query: dataset.queries[query] for query in asked},
        qrels=qrels,
        own=dataset.own & set(asked),
    )


def _some_pairs(dataset: STSSet, pairs: int, rng: np.random.Generator) -> STSSet:
    rows = _sample(range(len(dataset.scores)), pairs, rng)
    first, second, scores = zip(
        *((dataset.first[i], dataset.second[i], dataset.scores[i]) for i in rows), strict=True
    )
    if len(set(scores)) < 2:
        raise EvaluationError(
            f"{dataset.name}: the {len(scores)} pairs drawn have one score; draw more"
        )
    return STSSet(dataset.name, first, second, scores)


def _sample(items: Any, count: int, rng: np.random.Generator) -> list[Any]:
    """Draw `count` items, or all, without repeats and in their order."""
    rows = rng.permutation(len(items))[:count]
    return [items[i] for i in np.sort(rows)]
