"""The model that a training leaves: one from before stays until the new one is whole."""

import pytest

from autoreg_rag.config import AutoRegConfig
from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.training import export


def test_a_model_takes_the_place_of_the_one_before(tiny_model, tiny_folder, tmp_path):
    export(tiny_model, tmp_path / "model")
    export(AutoRegModel.from_pretrained(tiny_folder, max_length=17), tmp_path / "model")
    assert AutoRegConfig.load(tmp_path / "model").max_length == 17
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_was_set_aside_when_an_export_was_killed_outlives_one_that_fails(
    tiny_model, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    export(tiny_model, folder)
    folder.rename(tmp_path / "model.old")  # as between the two renames

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AutoRegConfig, "save", full)
    with pytest.raises(ModelError, match="No space left"):
        export(tiny_model, folder)
    assert AutoRegConfig.load(folder) == tiny_model.config
