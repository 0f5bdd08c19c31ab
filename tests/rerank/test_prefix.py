import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Lfm2Config, RwkvConfig

from autoreg_rag.rerank.prefix import SharedPrefix
from tests.conftest import SIZES
from tests.rerank.conftest import FAMILIES, TEXTS, load


def states_both_ways(model, prefix):
    targets = model.decoder.ids(TEXTS)
    with torch.inference_mode(), model.as_decoder():
        shared = SharedPrefix(model.decoder, prefix)
        first = shared.states(targets)
        single = shared.states([[5]])
        again = shared.states(targets[::-1])
        expected = model.decoder.states(prefix.expand(len(targets), -1, -1), targets)
        reverse = model.decoder.states(prefix.expand(len(targets), -1, -1), targets[::-1])
    return [(first, expected), (again, reverse)], single


@pytest.mark.parametrize("length", [5, 1, 20])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_gives_the_states_of_one_per_text(tiny_folders, family, length):
    """Also where it is longer than the model's sliding window of 16."""
    model = load(tiny_folders[family])
    torch.manual_seed(1)
    prefix = model.decoder.backbone.embed(torch.randint(600, (1, length)))
    pairs, (state, token) = states_both_ways(model, prefix)
    for (hidden, tokens), (plain_hidden, plain_tokens) in pairs:
        torch.testing.assert_close(hidden, plain_hidden, atol=1e-4, rtol=1e-4)
        assert torch.equal(tokens, plain_tokens)
    assert (state.shape, token.tolist()) == ((1, 32), [5])


def test_a_model_with_convolutions_reads_the_prefix_with_each_text(tiny_folder, tmp_path):
    torch.manual_seed(2)
    config = Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    model = load(tmp_path)
    prefix = model.neck.bridge(model.compress(["a question"]))
    with torch.inference_mode():
        assert not SharedPrefix(model.decoder, prefix)._cache.is_shareable
    pairs, _ = states_both_ways(model, prefix)
    for (hidden, tokens), (plain_hidden, plain_tokens) in pairs:
        torch.testing.assert_close(hidden, plain_hidden)
        assert torch.equal(tokens, plain_tokens)


def test_a_model_that_keeps_its_state_elsewhere_reads_the_prefix_with_each_text(
    tiny_folder, tmp_path
):
    torch.manual_seed(2)
    sizes = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    config = RwkvConfig(**sizes, attention_hidden_size=32, bos_token_id=0, eos_token_id=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    model = load(tmp_path)
    prefix = model.neck.bridge(model.compress(["a question"]))
    pairs, _ = states_both_ways(model, prefix)
    for (hidden, tokens), (plain_hidden, plain_tokens) in pairs:
        torch.testing.assert_close(hidden, plain_hidden)
        assert torch.equal(tokens, plain_tokens)


def test_the_cache_does_not_grow(model):
    prefix = model.neck.bridge(model.compress(["a question"]))
    with torch.inference_mode():
        shared = SharedPrefix(model.decoder, prefix)
        for _ in range(2):
            shared.states(model.decoder.ids(TEXTS))
    assert shared._cache.get_seq_length() == prefix.shape[1]
    assert all(layer.keys.shape[0] == 1 for layer in shared._cache.layers)
