"""What a training run can be told, by flags or by a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from autoreg_rag.errors import ModelError
from autoreg_trainers.ranges import check_settings


def option(default: Any, text: str) -> Any:
    """Return a dataclass field with its default and its help."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingSettings:
    """Settings of every kind of training."""

    sources: list[str | dict[str, Any]] = option(
        [], "Training data: files, folders, globs or hub datasets, each with :key=value options."
    )
    out: str = option("run", "Folder of the run: model/, checkpoints/, settings.yaml, curve.png.")
    model: str | None = option(
        None,
        "What to train: a saved model or any causal LM; by default the default base, untrained.",
    )
    device: str | None = option(None, "cpu, cuda, mps; by default the best there is.")
    dtype: str | None = option(None, "Of the frozen weights; by default the device's fastest.")
    attention: str | None = option(
        None, "Attention of transformers: eager, sdpa ...; by default what trains fastest here."
    )
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "Compile the layers with torch.compile; auto does where a C++ compiler is."
    )
    tuning: Literal["lora", "full", "bridge"] = option(
        "lora", "Train an adapter, all weights, or (ic) only what the decoder reads through."
    )
    lora_rank: int = option(32, "Rank of a new adapter.")
    lora_alpha: int | None = option(None, "Alpha of a new adapter; by default twice the rank.")
    lora_dropout: float = option(0.0, "Dropout of a new adapter.")
    lora_targets: list[str] = option(["all-linear"], "Modules that a new adapter is put on.")
    num_compress_tokens: int | None = option(None, "k, for a model that is new.")
    query_instruction: str | None = option(None, "I_next, for a model that is new.")
    document_instruction: str | None = option(None, "I_self, for a model that is new.")
    pooling: Literal["mean", "last", "concat"] | None = option(None, "How k vectors become one.")
    max_length: int | None = option(None, "The most tokens of a text.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    neck_learning_rate: float | None = option(
        None, "Of compress tokens and the bridge's start; by default ten times the learning rate."
    )
    schedule: str = option("cosine", "Learning-rate schedule, as transformers names them.")
    warmup: float = option(0.05, "Share of the steps in which the learning rate rises.")
    weight_decay: float = option(0.0, "Of matrices.")
    max_grad_norm: float = option(1.0, "Where gradients are clipped.")
    batch_size: int = option(32, "Rows of an optimizer step, over all processes.")
    batches: Literal["mixed", "source"] = option(
        "mixed",
        "Rows of a batch: of any source, or of one where it can be, for harder in-batch negatives.",
    )
    token_budget: int = option(2048, "The most tokens of a micro-batch; memory follows it.")
    epochs: float = option(1.0, "Passes over the rows.")
    max_steps: int = option(-1, "Stop after this many steps, whatever the epochs.")
    max_rows: int | None = option(None, "Take at most this many rows.")
    max_group: int | None = option(
        None,
        "A group of more texts than this in a source, counted after its limit, is taken for a "
        "topic, whose rows may be each other's negatives and held back apart; by default every "
        "group counts.",
    )
    max_tokens: int | None = option(None, "Leave out rows with a text of more tokens than this.")
    max_target: int | None = option(
        None, "Score only this many tokens of a target; the encoder reads all of a text."
    )
    max_minutes: float | None = option(
        None,
        "Stop cleanly, with a checkpoint and the model, after the step in which these minutes "
        "are over; loading and reference scores count.",
    )
    held_back: int = option(200, "Rows kept for evaluation; none of their groups is trained on.")
    eval_steps: int = option(100, "Evaluate on held-back rows every so many steps; 0: at the end.")
    probe: str | None = option(
        None, "Folder of BEIR-layout and STS sets, for a small score while training."
    )
    probe_steps: int = option(200, "Take that score every so many steps; 0: at the end.")
    probe_queries: int = option(50, "Queries of each set that the score is taken on.")
    probe_documents: int = option(200, "Documents of each set that they are searched in.")
    probe_pairs: int = option(200, "Sentence pairs of each STS file.")
    logging_steps: int = option(10, "Log every so many steps.")
    save_steps: int = option(0, "Write a checkpoint every so many steps; 0: by time alone.")
    save_minutes: float = option(3.0, "Write a checkpoint every so many minutes; 0: by steps.")
    keep_checkpoints: int = option(2, "Older checkpoints are deleted.")
    resume: bool = option(False, "Go on from the run's last complete checkpoint, if there is one.")
    strict: bool = option(False, "A bad row is an error; otherwise it is counted and named.")
    seed: int = option(0, "Of all that is drawn.")

    def __post_init__(self) -> None:
        """Refuse settings that no run can have."""
        check_settings(self)


@dataclass
class CompressionSettings(TrainingSettings):
    """Settings of Information Compression."""

    tasks: dict[str, float] = option(
        {"answer": 0.5, "reconstruct": 0.5}, "Kinds of examples, name=weight."
    )
    bridge_rows: int = option(
        2048,
        "Rows that a bridge is fitted to before the first step, where the model is new or "
        "the bridge alone is trained; 0: it is not.",
    )
    distillation: float = option(
        0.0, "Weight, 0 to 1, of the KL divergence from the decoder that reads the context."
    )


@dataclass
class AlignmentTrainingSettings(TrainingSettings):
    """Settings of Conditional Distribution Alignment."""

    learning_rate: float = option(3e-5, "Peak learning rate.")
    negatives: int = option(1, "Hard negatives of a row that are used.")
    form: Literal["log_ratio", "log_sigmoid", "kl", "js"] = option("log_ratio", "S1's form.")
    beta: float = option(0.1, "Steepness of S1 and S2.")
    tau: float = option(0.1, "Temperature of the loss.")
    reduction: Literal["sum", "mean"] = option(
        "sum", "Log-likelihoods summed over a target's tokens, or their mean."
    )
    in_batch_negatives: int = option(0, "Other rows' positives that count as negatives too.")
    contrastive_weight: float = option(0.0, "Weight of InfoNCE beside CDA; 0 is the pure method.")
    contrastive_tau: float = option(0.05, "Temperature of that InfoNCE.")
    compression_weight: float = option(
        0.0, "Weight of the positives' negative log-likelihood per token beside CDA."
    )
    teacher: list[str] = option(
        [],
        "Sentence-transformers models whose similarities, their mean where there are several, "
        "the pooled vectors learn as well; none is the pure method.",
    )
    teacher_weight: float = option(1.0, "Weight of the divergence from them.")
    teacher_cosine_weight: float = option(
        0.0, "Weight of the mean squared difference from them, over all candidates."
    )
    references: str | None = option(
        None, "Folder of reference scores; made, or taken from there if they fit."
    )


@dataclass
class ContrastiveSettings(TrainingSettings):
    """Settings of the contrastive baseline."""

    learning_rate: float = option(3e-5, "Peak learning rate.")
    negatives: int = option(1, "Hard negatives of a row that are used.")
    tau: float = option(0.05, "Temperature of InfoNCE.")
    teacher: list[str] = option(
        [],
        "Sentence-transformers models whose similarities, their mean where there are several, "
        "are learnt as well.",
    )
    teacher_weight: float = option(1.0, "Weight of the divergence from them.")
    teacher_cosine_weight: float = option(
        0.0, "Weight of the mean squared difference from them, over all candidates."
    )

    def __post_init__(self) -> None:
        """Refuse to train nothing: InfoNCE asks nothing of what the decoder reads through."""
        super().__post_init__()
        if self.tuning == "bridge":
            raise ModelError("tuning is bridge, which InfoNCE never runs; give lora or full")
