import logging

import numpy as np
import pytest
import torch
from peft import PeftModel

from autoreg_rag.errors import ModelError
from autoreg_trainers.adaptation import count, merged, rounded, trainable
from autoreg_trainers.objectives import Compression
from tests.trainers.plain import TEXTS, examples, gradients, loaded, prepared, shaken

FAMILIES = ["llama", "qwen", "mistral", "gemma"]


def trained_names(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


NECK = {"neck.compress_tokens", "neck.bridge_start", "neck.bridge_matrix"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_changes_nothing_at_first_and_is_float32(tiny_folder, dtype):
    before = loaded(tiny_folder, dtype).encode_queries(TEXTS)
    model = trainable(loaded(tiny_folder, dtype), "lora", rank=4)
    np.testing.assert_array_equal(model.encode_queries(TEXTS), before)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert set(trained) > NECK
    assert all(name in NECK or "lora_" in name for name in trained)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert count(model) == sum(value.numel() for value in trained.values())
    frozen = {v.dtype for v in model.backbone.language_model.parameters() if not v.requires_grad}
    assert frozen == {model.backbone.dtype}


def test_an_adapters_settings_are_those_asked_for(tiny_folder):
    model = trainable(loaded(tiny_folder), "lora", rank=4, target_modules=["q_proj"])
    settings = model.backbone.adapter_settings()
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert settings["target_modules"] == ["q_proj"]
    shapes = {tuple(value.shape) for name, value in model.named_parameters() if "lora_A" in name}
    assert shapes == {(4, 32)}
    again = trainable(model, "lora", rank=16, alpha=1)
    assert again.backbone.adapter_settings() == settings
    other = trainable(loaded(tiny_folder), "lora", rank=4, alpha=12)
    assert other.backbone.adapter_settings()["lora_alpha"] == 12


def test_an_adapter_that_was_saved_is_trained_on(tiny_folder, tmp_path):
    """From compression to alignment: all of it still gets gradients, after scoring too."""
    prepared(tiny_folder).save_pretrained(tmp_path / "model")
    model = loaded(tmp_path / "model")
    names = trained_names(prepared(tiny_folder))
    objective = Compression(trainable(model, "lora"), 100).train()
    for _ in range(2):
        _, found = gradients(objective, examples(objective.model))
        assert set(found) == names
        assert all(value.any() for value in found.values())


def test_other_settings_of_an_adapter_that_is_there_are_told(tiny_folder, tmp_path, caplog):
    prepared(tiny_folder).save_pretrained(tmp_path / "model")
    caplog.set_level(logging.WARNING)
    caplog.clear()
    trainable(loaded(tmp_path / "model"), "lora", rank=3)
    assert not caplog.messages
    trainable(loaded(tmp_path / "model"), "lora", rank=8, dropout=0.1, target_modules=["q_proj"])
    (told,) = caplog.messages
    assert "rank 3; dropout 0.0; targets down_proj" in told


@pytest.mark.parametrize("family", FAMILIES)
def test_full_tuning_trains_a_copy_and_no_unused_head(tiny_folders, family):
    before = loaded(tiny_folders[family])
    vectors = before.encode_queries(TEXTS)
    model = trainable(loaded(tiny_folders[family]), "full")
    np.testing.assert_array_equal(model.encode_queries(TEXTS), vectors)
    tied = family in ("llama", "gemma")
    names = {f"tuned_model.{name}" for name, _ in before.language_model.named_parameters()}
    assert trained_names(model) == (names | NECK) - (set() if tied else {
        "tuned_model.lm_head.weight"
    })  # fmt: skip
    shaken(model, 1)
    assert not np.allclose(model.encode_queries(TEXTS), vectors, atol=1e-3)
    frozen = dict(model.backbone.language_model.named_parameters())
    for name, value in before.language_model.named_parameters():
        assert torch.equal(frozen[name], value)
        assert not frozen[name].requires_grad
    assert not model.neck.bridge_matrix.equal(before.neck.bridge_matrix)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_tuning_goes_on_from_an_adapter(tiny_folder, tmp_path, dtype):
    adapted = rounded(prepared(tiny_folder))
    adapted.save_pretrained(tmp_path / "model")
    model = trainable(loaded(tmp_path / "model", dtype), "full")
    assert not isinstance(model.backbone.language_model, PeftModel)
    assert not any("lora" in name for name, _ in model.named_parameters())
    exact = trainable(loaded(tmp_path / "model"), "full")
    weights = [
        dict(backbone.language_model.named_parameters())
        for backbone in (model.tuned, model.backbone, exact.tuned, exact.backbone)
    ]
    for name in weights[0]:
        tuned, base, exact_tuned, exact_base = (part[name] for part in weights)
        assert tuned.dtype == torch.float32
        # The base is rounded in bfloat16, what the adapter adds to it is not.
        torch.testing.assert_close(tuned - base.float(), exact_tuned - exact_base)
    np.testing.assert_allclose(
        exact.encode_queries(TEXTS), adapted.encode_queries(TEXTS), atol=1e-4
    )
    base = loaded(tiny_folder)
    base.neck.load_state_dict(adapted.neck.state_dict())
    latents = exact.compress(TEXTS)
    assert torch.equal(exact.log_likelihood(latents, TEXTS), base.log_likelihood(latents, TEXTS))


def test_merging_leaves_the_adapter_where_it_is(tiny_folder):
    model = prepared(tiny_folder)
    before, fingerprint = model.encode_queries(TEXTS), model.fingerprint()
    copy = merged(model.backbone)
    assert not isinstance(copy.language_model, PeftModel)
    assert model.fingerprint() == fingerprint
    np.testing.assert_array_equal(model.encode_queries(TEXTS), before)


def test_what_was_tuned_in_full_goes_on_in_full_only(tiny_folder, tmp_path):
    model = rounded(prepared(tiny_folder, "full"))
    model.save_pretrained(tmp_path / "model")
    again = trainable(loaded(tmp_path / "model"), "full")
    np.testing.assert_array_equal(again.encode_queries(TEXTS), model.encode_queries(TEXTS))
    assert trained_names(again) == trained_names(prepared(tiny_folder, "full"))
    with pytest.raises(ModelError, match="go on with tuning: full"):
        trainable(loaded(tmp_path / "model"), "lora")


def test_an_adapter_that_fits_nothing_is_refused_in_one_line(tiny_folder):
    with pytest.raises(ModelError, match="no adapter fits") as caught:
        trainable(loaded(tiny_folder), "lora", target_modules=["no_such_layer"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rounded_model_reloads_bit_for_bit(tiny_folders, tmp_path, family, dtype):
    model = trainable(loaded(tiny_folders[family], dtype), "full")
    shaken(model, 2)
    fingerprint = model.fingerprint()
    exact = model.encode_queries(TEXTS)
    model = rounded(model)
    assert model.tuned.dtype == model.backbone.dtype
    assert (exact * model.encode_queries(TEXTS)).sum(axis=1).min() > 0.98
    model.save_pretrained(tmp_path / "model")
    again = loaded(tmp_path / "model", dtype)
    assert again.fingerprint() == model.fingerprint() == fingerprint
    np.testing.assert_array_equal(again.encode_queries(TEXTS), model.encode_queries(TEXTS))
    latents = model.compress(TEXTS)
    assert torch.equal(again.compress(TEXTS), latents)
    assert torch.equal(again.log_likelihood(latents, TEXTS), model.log_likelihood(latents, TEXTS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_adapter_reloads_bit_for_bit(tiny_folders, tmp_path, family, dtype):
    model = trainable(loaded(tiny_folders[family], dtype), "lora", rank=3)
    shaken(model, 2)
    fingerprint = model.fingerprint()
    assert rounded(model) is model
    model.save_pretrained(tmp_path / "model")
    again = loaded(tmp_path / "model", dtype)
    assert again.fingerprint() == fingerprint
    assert again.fingerprint() == model.fingerprint()
    latents = model.compress(TEXTS)
    assert torch.equal(again.compress(TEXTS), latents)
    assert torch.equal(again.log_likelihood(latents, TEXTS), model.log_likelihood(latents, TEXTS))


def test_bfloat16_gradients_are_close_to_those_in_float32(tiny_folder):
    """The base's format decides what a pass computes in; adapters and sums stay float32."""
    exact = prepared(tiny_folder)
    model = trainable(loaded(tiny_folder, "bfloat16"), "lora", rank=3)
    shaken(model, 0)
    values = dict(exact.named_parameters())
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.copy_(values[name])
    rows = examples(exact)
    outcome, found = gradients(Compression(model, 200), rows)
    expected, wanted = gradients(Compression(exact, 200), rows)
    assert outcome.loss.item() == pytest.approx(expected.loss.item(), rel=0.03)
    flat, other = (torch.cat([v.flatten() for v in part.values()]) for part in (found, wanted))
    assert torch.cosine_similarity(flat, other, dim=0) > 0.95
    assert {value.dtype for value in found.values()} == {torch.float32}


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_bridge_trained_alone_leaves_embeddings_as_they_are(tiny_folder, tmp_path, tuning):
    rounded(prepared(tiny_folder, tuning)).save_pretrained(tmp_path / "model")
    before = loaded(tmp_path / "model")
    model = trainable(loaded(tmp_path / "model"), "bridge")
    assert trained_names(model) == {"neck.bridge_start", "neck.bridge_matrix"}
    _, found = gradients(Compression(model, 200), examples(model))
    assert all(value.any() for value in found.values())
    shaken(model, 1)
    assert model.fingerprint() == before.fingerprint()
    latents = before.compress(TEXTS)
    assert torch.equal(model.compress(TEXTS), latents)
    assert not torch.equal(
        model.log_likelihood(latents, TEXTS), before.log_likelihood(latents, TEXTS)
    )
