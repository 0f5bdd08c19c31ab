"""Two processes that each hold a part of the weights (FSDP2) train as one does.

On CPUs, which accelerate has to be told, see `sharded`; what they are told besides is what
accelerate's launcher makes of the configuration for users.
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
from tests.trainers.sharded import take_cpus
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


@pytest.fixture(scope="module")
def together(place):
    """Run a command in two processes that share out the weights; give what they print."""
    configuration = CONFIGURATIONS / "fsdp.yaml"
    told = json.loads(launched("tests.trainers.sharded", configuration=configuration, cwd=ROOT))
    assert told["ACCELERATE_USE_FSDP"] == "true"

    def together(name, *options):
        run = [name, *options, "--resume", "yes"]
        ended = apart(*run, cwd=place, count=2, before=take_cpus, environment=told)
        assert ended == [0, 0]
        return "".join((place / f"printed-{rank}").read_text() for rank in range(2))

    return together


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


def test_a_run_with_shared_weights_is_that_of_one_process_also_when_resumed(alone, place, together):
    name, options, run, start = alone
    out = place / f"{name}-shared"
    together(name, *options, "--out", out, "--max-minutes", 0)
    assert [path.name for path in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]
    printed = together(name, *options, "--out", out)
    assert_same_run(out, run, start)
    figures = assert_same_held_back(out, run)
    assert json.loads(printed).keys() <= figures[-1].keys()  # of one process alone

    models = [
        AutoRegModel.from_pretrained(each / "model", dtype="float32", device="cpu")
        for each in (out, run)
    ]
    vectors, expected = (model.encode_queries(TEXTS) for model in models)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)


def test_a_run_that_has_ended_is_left_as_it_is(alone, place, together):
    name, options, _, _ = alone
    if name != "ic":
        pytest.skip("one kind will do")
    run = [*options, "--out", place / "ended", "--max-steps", 1]
    together(name, *run)
    before = weights(place / "ended")
    together(name, *run)
    assert weights(place / "ended").keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in weights(place / "ended").items())
