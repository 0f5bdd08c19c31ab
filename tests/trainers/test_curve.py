"""The picture of a run: that there is one, whatever was logged, and that it shows the data."""

import math

import numpy as np
import pytest
from matplotlib.image import imread

from autoreg_trainers.curve import draw_curve


def drawn(tmp_path, history, **how):
    draw_curve(history, tmp_path / "curve.png", **how)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    return imread(tmp_path / "curve.png")[..., :3]


def ink(picture):
    """The rows of pixels that are not white."""
    return int((picture.min(axis=2) < 0.9).any(axis=1).sum())


def shows(picture, colour):
    """Whether any pixel has this colour, such as ``#0072B2``."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return bool((np.abs(picture - wanted).max(axis=2) < 0.02).any())


TRAINING = [
    {"step": i, "loss": 5 / i, "nll": 5 / i, "learning_rate": 1e-4 / i, "grad_norm": 2.0}
    for i in range(1, 100)
]
EVALUATION = [{"step": 10 * i, "eval_loss": 5 / i, "eval_no_context": 5.4} for i in range(1, 10)]
PROBE = [
    {"step": 50, "probe/retrieval/a": 20.0, "probe/retrieval/mean": 20.0},
    {"step": 99, "probe/retrieval/a": 40.0, "probe/retrieval/mean": 40.0, "probe/sts/mean": 60.0},
]
BLUE, ORANGE = "#0072B2", "#D55E00"


def test_each_kind_of_figure_adds_a_panel(tmp_path):
    loss = drawn(tmp_path, [{"step": entry["step"], "loss": entry["loss"]} for entry in TRAINING])
    assert shows(loss, BLUE)
    assert not shows(loss, ORANGE)
    assert shows(drawn(tmp_path, [*TRAINING, *EVALUATION]), ORANGE)
    heights = [
        len(drawn(tmp_path, history))
        for history in (
            [{"step": 1, "loss": 2.0}],
            TRAINING,
            [*TRAINING, *PROBE],
            [*TRAINING, *PROBE, {"step": 1, "preferred": 0.5, "s1_saturated": 0.1}],
        )
    ]
    assert heights == sorted(set(heights))


@pytest.mark.parametrize(
    "history",
    [
        [{"step": 7, "loss": 2.0}],
        [{"step": 7, "eval_loss": 2.0, "epoch": 1.0}],
        PROBE[:1],
        [{"step": 1, "grad_norm": 0.0}, {"step": 2, "grad_norm": 3.0}],
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 2.0}],
        [{"step": 1, "loss": 1e30}, {"step": 2, "loss": -1e30}],
        [{"loss": 1.0}, {"step": 1, "loss": 3, "note": "text", "flag": True, "none": None}],
    ],
)
def test_few_or_odd_points_are_drawn(tmp_path, history):
    assert ink(drawn(tmp_path, history)) > 20


@pytest.mark.parametrize("history", [[], [{"step": 3, "loss": math.inf}], [{"train_runtime": 3.0}]])
def test_nothing_to_draw_is_said(tmp_path, history):
    assert 5 < ink(drawn(tmp_path, history)) < 40  # one line of text


def test_what_cannot_be_drawn_changes_nothing(tmp_path):
    plain = drawn(tmp_path, TRAINING)
    odd = [
        {"step": 40, "loss": math.nan, "grad_norm": math.inf},
        {"step": 41, "note": "text", "flag": True},
        {"loss": 9.0},
    ]
    # In front: of several figures of one step the last counts.
    double = [{"step": 30, "loss": 9.0}]
    assert np.array_equal(drawn(tmp_path, [*double, *TRAINING, *odd]), plain)


def test_a_picture_from_before_is_replaced(tmp_path):
    first = drawn(tmp_path, TRAINING[:3])
    assert not np.array_equal(drawn(tmp_path, TRAINING[:3], title="Information Compression"), first)
