"""Two processes that each hold a part of the weights (FSDP2) train as one does.

On CPUs, which accelerate has to be told, see `sharded`; the configuration and the launcher
are those of a user.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from autoreg_rag.model import AutoRegModel
from tests.trainers.plain import TEXTS
from tests.trainers.running import apart, flags, launched, weights
from tests.trainers.test_processes import (
    CONFIGURATIONS,
    KINDS,
    SAME,
    STILL,
    assert_same_held_back,
    assert_same_run,
    smooth,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo's processes are started by a fork")

TUNINGS = {"ic": "lora", "cda": "full", "contrastive": "lora"}
ROOT = Path(__file__).parents[2]


def together(name, *options, cwd):
    """Run a command in two processes that share out the weights."""
    started = [name, *options, "--resume", "yes"]
    configuration = CONFIGURATIONS / "fsdp.yaml"
    return launched("tests.trainers.sharded", *started, configuration=configuration, cwd=cwd)


@pytest.fixture(scope="module", params=TUNINGS)
def alone(request, place, rows_file, tiny_folder):
    """Options of a run, its folder, and that of one whose learning rate is as good as none."""
    name = request.param
    kind = {**SAME, **KINDS[name], "tuning": TUNINGS[name]}
    options = flags(model=tiny_folder, sources=rows_file, **kind)
    run, start = place / f"{name}-alone", place / f"{name}-start"
    assert apart(name, *options, "--out", run, cwd=place, before=smooth) == [0]
    assert apart(name, *options, *STILL, "--out", start, cwd=place) == [0]
    return name, options, run, start


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.usefixtures("importable")
def test_a_run_with_shared_weights_is_that_of_one_process_also_when_resumed(alone, place):
    name, options, run, start = alone
    out = place / f"{name}-shared"
    together(name, *options, "--out", out, "--max-minutes", 0, cwd=place)
    assert [path.name for path in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]
    printed = together(name, *options, "--out", out, cwd=place)
    assert_same_run(out, run, start)
    figures = assert_same_held_back(out, run)
    assert json.loads(printed).keys() <= figures[-1].keys()  # of one process alone

    models = [
        AutoRegModel.from_pretrained(each / "model", dtype="float32", device="cpu")
        for each in (out, run)
    ]
    vectors, expected = (model.encode_queries(TEXTS) for model in models)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)


@pytest.mark.usefixtures("importable")
def test_a_run_that_has_ended_is_left_as_it_is(alone, place):
    name, options, _, _ = alone
    if name != "ic":
        pytest.skip("one kind will do")
    run = [*options, "--out", place / "ended", "--max-steps", 1]
    together(name, *run, cwd=place)
    before = weights(place / "ended")
    together(name, *run, cwd=place)
    assert weights(place / "ended").keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in weights(place / "ended").items())
