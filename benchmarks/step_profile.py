"""Where a training step's time goes, by torch.profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from autoreg_rag.likelihood import CHUNK

GROUPS = (
    "matrix products",
    "adapter products",
    "attention",
    "norms, activations, casts",
    "head",
    "optimizer",
    "other",
)

ELEMENTWISE = (
    "add", "sub", "mul", "div", "neg", "pow", "rsqrt", "mean", "sum", "silu", "sigmoid", "exp",
    "log", "copy", "to_copy", "cat", "gelu", "tanh", "cos", "sin", "fill", "zero", "contiguous",
)  # fmt: skip


def profiled(step: Callable[[], object], vocabulary: int, rank: int) -> dict[str, Any]:
    """Run a step under the profiler and add up its operators.

    Parameters
    ----------
    step
        What is run, once.
    vocabulary
        V: an operator on a tensor with a side of V, or of the part of it that our head
        takes at a time, belongs to the head.
    rank
        The adapter's: a product with a side of this length belongs to the adapter.

    Returns
    -------
    dict
        ``groups``: seconds of each of `GROUPS`, of the operator itself without
        those that it calls; ``operators``: the ten that took longest, with their
        group, seconds and calls.
    """
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step()
    groups = dict.fromkeys(GROUPS, 0.0)
    operators: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for event in profiler.events():
        name = _group(event.name, event.input_shapes or [], vocabulary, rank)
        seconds = event.self_cpu_time_total / 1e6
        groups[name] += seconds
        operators[name, event.name][0] += seconds
        operators[name, event.name][1] += 1
    longest = sorted(operators.items(), key=lambda item: -item[1][0])[:10]
    return {
        "groups": groups,
        "operators": [
            {"group": group, "name": name, "seconds": seconds, "calls": int(calls)}
            for (group, name), (seconds, calls) in longest
        ],
    }


def _group(name: str, shapes: Iterable[Any], vocabulary: int, rank: int) -> str:
    sides = {side for shape in shapes for side in _sides(shape)}
    short = name.removeprefix("aten::").removeprefix("_").rstrip("_")
    if short.startswith(("fused_adam", "foreach")) or name.startswith("Optimizer"):
        return "optimizer"
    if sides & {vocabulary, CHUNK} and "embedding" not in short and short != "index_select":
        return "head"
    if "scaled_dot_product" in short or "softmax" in short or short in ("bmm", "baddbmm"):
        return "attention"
    if short in ("mm", "addmm", "linear", "mkldnn_linear") or "linear_pointwise" in short:
        return "adapter products" if rank in sides else "matrix products"
    # What the compiler fused, and the regions around it.
    if "cpp_fused" in name or "ompiled" in name:
        return "norms, activations, casts"
    return "norms, activations, casts" if short.startswith(ELEMENTWISE) else "other"


def _sides(shape: Any) -> Iterable[int]:
    """Return the sides of a shape, or of a list of shapes."""
    for side in shape:
        if isinstance(side, int):
            yield side
        else:
            yield from _sides(side)
