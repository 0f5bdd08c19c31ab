import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    GPTJConfig,
    GraniteConfig,
    HyperCLOVAXConfig,
    Llama4TextConfig,
    OPTConfig,
    RobertaConfig,
)

from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel
from tests.conftest import SIZES, make_tokenizer

TEXTS = ["Penguins cannot fly.", "A for loop steps through an iterable, one item at a time."]
LAYERS = {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2}
FAMILIES = {
    "bias": GPTJConfig(
        vocab_size=600, n_positions=256, n_embd=32, n_layer=2, n_head=4, rotary_dim=8
    ),
    "projected": OPTConfig(
        **LAYERS,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=16,
        max_position_embeddings=256,
    ),
    "divided": GraniteConfig(**SIZES, logits_scaling=7.0),
    "multiplied": Cohere2Config(**SIZES, logit_scale=0.3, sliding_window=64),
    "multiplied by another name": HyperCLOVAXConfig(**SIZES, logits_scaling=7.0),
}


def saved(config, folder):
    """Save a random LM whose logits are no longer all alike."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
            elif name == "lm_head.bias":
                parameter.normal_(std=2)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_likelihoods_are_those_of_the_models_own_logits(config, tmp_path):
    model = AutoRegModel.from_pretrained(saved(config, tmp_path / "base"), dtype="float32")
    latents = model.compress(TEXTS)
    prefix = model.neck.bridge(latents)
    found = model.log_likelihood(latents, TEXTS)
    for row, ids in enumerate(model.decoder.ids(TEXTS)):
        inputs = torch.cat([prefix[row], model.backbone.embed(torch.tensor(ids[:-1]))])
        with torch.inference_mode():
            logits = model.backbone.language_model(inputs_embeds=inputs[None]).logits[0]
        steps = logits[model.neck.k - 1 :].double().log_softmax(dim=1)
        expected = steps[torch.arange(len(ids)), ids].sum().item()
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


def test_a_head_of_an_unknown_kind_is_refused_in_one_line(tiny_folder, monkeypatch):
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def cubed(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits**3
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", cubed)
    with pytest.raises(ModelError, match="cannot evaluate") as caught:
        AutoRegModel.from_pretrained(tiny_folder)
    assert "\n" not in str(caught.value)


def test_a_model_that_sees_what_comes_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = RobertaConfig(vocab_size=600, intermediate_size=64, pad_token_id=1, **sizes)
    with pytest.raises(ModelError, match="no causal LM") as caught:
        AutoRegModel.from_pretrained(saved(config, tmp_path / "base"), dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_model_that_overflows_names_the_format(tiny_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight.mul_(1e4)
            layer.mlp.down_proj.weight.mul_(1e4)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    AutoRegModel.from_pretrained(tmp_path, dtype="float32")
    with pytest.raises(ModelError, match="not finite in float16: choose another") as caught:
        AutoRegModel.from_pretrained(tmp_path, dtype="float16")
    assert "\n" not in str(caught.value)


def test_an_architecture_that_does_not_fit_is_refused_in_one_line(tmp_path):
    base = saved(Llama4TextConfig(**SIZES), tmp_path / "base")
    with pytest.raises(ModelError, match="cannot be used") as caught:
        AutoRegModel.from_pretrained(base, dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_plain_heads_scale_is_exactly_one_in_each_format(tiny_folders):
    for folder in tiny_folders.values():
        for dtype in ("float32", "bfloat16"):
            model = AutoRegModel.from_pretrained(folder, dtype=dtype)
            assert model.backbone.head.scale == 1
