"""Models whose encoder has weights of its own beside the frozen base."""

import copy
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoreg_rag.backbone import Backbone
from autoreg_rag.errors import ModelError
from autoreg_rag.model import ENCODER_FOLDER, AutoRegModel

TEXTS = ["one text", "another one that is longer", "a third"]
FAMILIES = ["llama", "qwen", "mistral", "gemma"]


def tuned_model(folder, seed=5):
    """A model whose encoder is the base, with noise, in bfloat16's numbers."""
    model = AutoRegModel.from_pretrained(folder, dtype="float32", device="cpu")
    base = model.backbone
    language_model = copy.deepcopy(base.language_model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in language_model.parameters():
            noise = 0.05 * torch.randn(value.shape, generator=generator)
            value.copy_((value + noise).bfloat16())
    tuned = Backbone(base.name, language_model, base.tokenizer, base.base_hash)
    return AutoRegModel(model.config, base, model.neck, tuned=tuned)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_has_its_own_weights_and_the_decoder_the_bases(tiny_folders, family):
    model = tuned_model(tiny_folders[family])
    base = AutoRegModel.from_pretrained(tiny_folders[family], dtype="float32", device="cpu")
    latents = model.compress(TEXTS)
    assert not torch.allclose(latents, base.compress(TEXTS), rtol=1e-2)
    assert torch.equal(model.log_likelihood(latents, TEXTS), base.log_likelihood(latents, TEXTS))
    assert model.decode(latents, max_new_tokens=5) == base.decode(latents, max_new_tokens=5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_reloads_bit_for_bit(tiny_folders, tmp_path, family):
    model = tuned_model(tiny_folders[family])
    model.save_pretrained(tmp_path / "model")
    again = AutoRegModel.from_pretrained(tmp_path / "model", dtype="float32", device="cpu")
    assert again.fingerprint() == model.fingerprint()
    assert again.tuned.base_hash == again.backbone.base_hash == model.tuned.base_hash
    np.testing.assert_array_equal(again.encode_queries(TEXTS), model.encode_queries(TEXTS))
    latents = model.compress(TEXTS)
    assert torch.equal(again.compress(TEXTS), latents)
    assert torch.equal(again.log_likelihood(latents, TEXTS), model.log_likelihood(latents, TEXTS))
    again.save_pretrained(tmp_path / "again")
    files = {p.relative_to(tmp_path / "model") for p in (tmp_path / "model").rglob("*.safetensors")}
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


def test_weights_are_saved_once_and_in_bfloat16(tiny_folder, tmp_path):
    model = tuned_model(tiny_folder)
    model.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model" / ENCODER_FOLDER / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    expected = sum(value.numel() for value in model.tuned.language_model.parameters())
    assert sum(value.numel() for value in weights.values()) == expected


def test_the_fingerprint_follows_the_encoders_weights_not_their_format(tiny_folder, tmp_path):
    model = tuned_model(tiny_folder)
    model.save_pretrained(tmp_path / "model")
    seen = {model.fingerprint()}
    seen.add(AutoRegModel.from_pretrained(tmp_path / "model", dtype="bfloat16").fingerprint())
    assert len(seen) == 1
    seen.add(tuned_model(tiny_folder, seed=6).fingerprint())
    seen.add(AutoRegModel.from_pretrained(tiny_folder).fingerprint())
    with torch.no_grad():
        next(model.tuned.language_model.parameters())[0] += 1
    seen.add(model.fingerprint())
    assert len(seen) == 4


def test_a_damaged_encoder_is_refused_in_one_line(tiny_folder, tmp_path):
    tuned_model(tiny_folder).save_pretrained(tmp_path / "model")
    folder = tmp_path / "model" / ENCODER_FOLDER
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        AutoRegModel.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        AutoRegModel.from_pretrained(tmp_path / "model")


def test_a_tuned_model_refuses_another_base(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "base")
    tuned_model(tmp_path / "base").save_pretrained(tmp_path / "model")
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'))
    with pytest.raises(ModelError, match="made for base"):
        AutoRegModel.from_pretrained(tmp_path / "model")
