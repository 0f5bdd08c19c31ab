"""LoRA layers that add their update in a matrix product, against peft's own."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import nn

from autoreg_rag.lora import FusedLoraLinear, fuse


def adapted(dtype=torch.float32, **settings):
    """Return a net with an adapter that does something, peft's own and fused."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 7, bias=False))
    model = get_peft_model(net, LoraConfig(r=3, target_modules=["0", "2"], **settings))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    plain = model.to(dtype).eval()
    fused = copy.deepcopy(plain)
    fuse(fused)
    return plain, fused


def layers(model):
    return [module for module in model.modules() if isinstance(module, lora.Linear)]


@pytest.fixture
def peft_calls(monkeypatch):
    """The layers whose output peft makes itself."""
    calls = []
    forward = lora.Linear.forward

    def noted(self, *args, **kwargs):
        calls.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(lora.Linear, "forward", noted)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "lora_alpha": 5}], ids=str)
def test_fused_layers_compute_what_pefts_do(settings, shape, dtype, peft_calls):
    plain, fused = adapted(dtype, **settings)
    x = torch.randn(*shape, 12).to(dtype)
    kept = x.clone()
    with torch.inference_mode():
        expected = plain(x)
        peft_calls.clear()
        found = fused(x)
    assert not peft_calls
    assert torch.equal(x, kept)
    rounding = 1e-5 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding * expected.std())


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}], ids=str
)
def test_other_kinds_of_lora_compute_what_they_did(settings):
    plain, fused = adapted(**settings)
    x = torch.randn(6, 12)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), plain(x))


def test_dropout_acts_in_training():
    _, fused = adapted(lora_dropout=0.5)
    x = torch.randn(6, 12)
    with torch.inference_mode():
        assert not torch.equal(fused.train()(x), fused.train()(x))
    fused.eval()
    assert torch.equal(fused(x), fused(x))
    for layer in layers(fused):  # as objectives do, whose base never trains
        layer.lora_dropout.train()
    assert not torch.equal(fused(x), fused(x))


def test_gradients_are_pefts():
    plain, fused = adapted()
    x = torch.randn(6, 12)
    for model in (plain, fused):
        model(x).square().sum().backward()
    found, expected = (dict(model.named_parameters()) for model in (fused, plain))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].grad is None) == (value.grad is None)
        if value.grad is not None:
            size = value.grad.abs().max().item()
            torch.testing.assert_close(found[name].grad, value.grad, rtol=0, atol=1e-5 * size)


def test_gradients_of_float32_adapters_under_autocast_are_pefts(peft_calls):
    plain, fused = adapted(torch.bfloat16)
    x = torch.randn(4, 6, 12).bfloat16()
    found, expected = [], []
    for model, kept in ((plain, expected), (fused, found)):
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        leaf = x.clone().requires_grad_()
        peft_calls.clear()
        with torch.autocast("cpu", torch.bfloat16):
            model(leaf).float().square().sum().backward()
        weights = [value for name, value in model.named_parameters() if "lora_" in name]
        assert all(value.grad.dtype is torch.float32 for value in weights)
        kept += [value.grad.float() for value in (leaf, *weights)]
    assert not peft_calls
    for ours, pefts in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, pefts, rtol=0, atol=3e-2 * pefts.abs().max().item())


def test_an_adapter_that_is_switched_off_or_merged_is_not_added():
    plain, fused = adapted()
    x = torch.randn(6, 12)
    with torch.inference_mode():
        expected = fused(x)
        with fused.disable_adapter(), plain.disable_adapter():
            assert torch.equal(fused(x), plain(x))
            assert not torch.allclose(fused(x), expected)
        for step in (fused.merge_adapter, fused.unmerge_adapter):
            step()
            torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-4)


def test_formats_that_differ_are_left_to_peft(peft_calls):
    plain, fused = adapted()
    for model in (plain, fused):
        for layer in layers(model):
            layer.base_layer.bfloat16()
    x = torch.randn(6, 12).bfloat16()
    with torch.inference_mode():
        expected = plain(x)
        peft_calls.clear()
        assert torch.equal(fused(x), expected)
    assert len(peft_calls) == 2


def test_autocast_is_left_to_peft():
    plain, fused = adapted()
    x = torch.randn(6, 12)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(x), plain(x))


def test_the_real_models_layers_are_fused(real_model):
    found = layers(real_model.backbone.language_model)
    assert found
    assert all(isinstance(layer, FusedLoraLinear) for layer in found)
