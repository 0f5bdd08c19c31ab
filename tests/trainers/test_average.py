"""The mean of models' weights."""

import math

import numpy as np
import pytest
import torch

from autoreg_rag.errors import ModelError
from autoreg_trainers.adaptation import rounded, trainable
from autoreg_trainers.average import mean
from tests.trainers.plain import TEXTS, loaded, prepared, shaken


@pytest.fixture(params=["lora", "full"])
def folders(request, tiny_folder, tmp_path):
    """Two models that were trained from one start."""
    made = [tmp_path / "first", tmp_path / "second"]
    for seed, folder in enumerate(made):
        model = prepared(tiny_folder, request.param)
        shaken(model, seed)
        rounded(model).save_pretrained(folder)
    return made


def values(model):
    tuned = model.tuned.language_model.state_dict() if model.tuned else {}
    return dict(model.backbone.adapter_parameters()) | model.neck.state_dict() | tuned


def test_each_weight_is_the_weighted_mean(folders):
    first, second = (values(loaded(folder)) for folder in folders)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    found = values(mean(folders, [1, 3]))
    assert found.keys() == first.keys()
    for name, value in found.items():
        exact = 0.25 * first[name].double() + 0.75 * second[name].double()
        torch.testing.assert_close(value.double(), exact, rtol=2**-8, atol=1e-7)


def test_a_model_with_itself_is_itself(folders):
    model = loaded(folders[0])
    again = mean([folders[0]] * 3, [1, 2, 5])
    assert again.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(again.encode_documents(TEXTS), model.encode_documents(TEXTS))


def test_the_command_writes_a_model_that_loads(here, folders, tmp_path):
    status, printed, _ = here("average", *folders, "--out", tmp_path / "mean")
    assert status == 0
    model = loaded(tmp_path / "mean")
    assert model.fingerprint() in printed
    assert model.fingerprint() == mean(folders, [0.5, 0.5]).fingerprint()


def test_what_cannot_be_averaged_is_refused(tiny_folders, tmp_path):
    def saved(name, family="llama", tuning="lora", **settings):
        model = trainable(loaded(tiny_folders[family]), tuning, **settings)
        rounded(model).save_pretrained(tmp_path / name)
        return tmp_path / name

    first = saved("first")
    for other, why in (
        (saved("other", "qwen"), "base_hash"),
        (saved("whole", tuning="full"), "what is trained"),
        (saved("wider", rank=6), "what is trained"),
    ):
        with pytest.raises(ModelError, match=why):
            mean([first, other], [1, 1])
    with pytest.raises(ModelError, match="two models"):
        mean([first], [1])
    with pytest.raises(ModelError, match="2 models and 3 weights"):
        mean([first, first], [1, 1, 1])
    for weight in (0, math.nan, math.inf):
        with pytest.raises(ModelError, match="above 0"):
            mean([first, first], [1, weight])
