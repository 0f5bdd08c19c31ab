import shutil

import pytest
import torch
from transformers import GenerationConfig

from autoreg_rag.chat import Chat, Message
from autoreg_rag.model import AutoRegModel

TARGETS = ["Yes.", "The raise statement re-raises the active exception.", "", "漢字 🙂 café"]


def plain_log_likelihood(model, latents, text):
    """Sum and number of terms of log D(t_i | e, t_<i), over full logits in float64."""
    tokenizer = model.backbone.tokenizer
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    neck = model.neck
    prefix = neck.bridge_start + (latents - neck.bridge_center) @ neck.bridge_matrix
    vectors = torch.cat([prefix, model.backbone.embed(torch.tensor(ids))])
    with torch.no_grad():
        logits = model.backbone.language_model(inputs_embeds=vectors[None]).logits[0].double()
    k = len(prefix)
    log_probs = logits.log_softmax(dim=-1)[k - 1 : k - 1 + len(ids)]
    return log_probs[torch.arange(len(ids)), torch.tensor(ids)].sum().item(), len(ids)


@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "gemma"])
def test_log_likelihood_is_the_sum_over_the_targets_tokens(tiny_folders, family):
    model = AutoRegModel.from_pretrained(tiny_folders[family], dtype="float32", device="cpu")
    latents = model.compress(["one", "another text", "third", "fourth"])
    sums = model.log_likelihood(latents, TARGETS)
    means = model.log_likelihood(latents, TARGETS, reduction="mean")
    assert sums.dtype == torch.float32
    for row, text, total, mean in zip(latents, TARGETS, sums, means, strict=True):
        expected, count = plain_log_likelihood(model, row, text)
        assert total.item() == pytest.approx(expected, rel=1e-4)
        assert mean.item() == pytest.approx(expected / count, rel=1e-4)


def test_log_likelihood_does_not_depend_on_the_batch(tiny_model):
    latents = tiny_model.compress(TARGETS)
    together = tiny_model.log_likelihood(latents, TARGETS)
    tiny_model.token_budget = 1
    torch.testing.assert_close(tiny_model.log_likelihood(latents, TARGETS), together)


def test_log_likelihood_refuses_rows_that_do_not_match(tiny_model):
    with pytest.raises(ValueError, match="1 latents and 2 targets"):
        tiny_model.log_likelihood(tiny_model.compress(["a"]), ["b", "c"])
    with pytest.raises(ValueError, match="sum or mean"):
        tiny_model.log_likelihood(tiny_model.compress(["a"]), ["b"], reduction="max")


def test_decode_picks_the_likeliest_token_at_each_step(tiny_model):
    latents = tiny_model.compress(["one", "another text"])
    texts = tiny_model.decode(latents, max_new_tokens=6)
    tokenizer = tiny_model.backbone.tokenizer
    for row, text in zip(latents, texts, strict=True):
        vectors = tiny_model.neck.bridge(row)[None]
        ids: list[int] = []
        for _ in range(6):
            with torch.no_grad():
                logits = tiny_model.backbone.language_model(inputs_embeds=vectors).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
            vectors = torch.cat([vectors, tiny_model.backbone.embed(torch.tensor([ids[-1:]]))], 1)
        assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_decode_does_not_depend_on_the_batch(tiny_model):
    latents = tiny_model.compress(TARGETS)
    together = tiny_model.decode(latents, max_new_tokens=5)
    tiny_model.token_budget = 1
    assert tiny_model.decode(latents, max_new_tokens=5) == together


def test_latents_of_another_shape_are_refused(tiny_model):
    for shape in ((1, 1, 32), (1, 5, 31), (1, 32)):
        with pytest.raises(ValueError, match=r"not \[n, 5, 32\]"):
            tiny_model.log_likelihood(torch.zeros(shape), ["text"])
        with pytest.raises(ValueError, match=r"not \[n, 5, 32\]"):
            tiny_model.decode(torch.zeros(shape))
    for length in (0, 252):
        with pytest.raises(ValueError, match="must be 1 to 251"):
            tiny_model.decode(torch.zeros(1, 5, 32), max_new_tokens=length)


def test_what_a_bases_author_set_for_generation_changes_nothing(tiny_folder, tmp_path):
    expected = AutoRegModel.from_pretrained(tiny_folder, dtype="float32")
    shutil.copytree(tiny_folder, tmp_path / "base")
    settings = {"repetition_penalty": 5.0, "num_beams": 3, "return_dict_in_generate": True}
    GenerationConfig(**settings).save_pretrained(tmp_path / "base")
    model = AutoRegModel.from_pretrained(tmp_path / "base", dtype="float32")
    latents = model.compress(["one text", "another"])
    assert model.decode(latents) == expected.decode(latents)
    messages = [Message("user", "one text")]
    assert Chat(model).reply(messages, max_new_tokens=9) == Chat(expected).reply(
        messages, max_new_tokens=9
    )


def test_no_latents_decode_to_no_texts(tiny_model):
    assert tiny_model.decode(tiny_model.compress([])) == []
    assert tiny_model.log_likelihood(tiny_model.compress([]), []).shape == (0,)


def test_the_real_decoder_starts_close_to_where_it_is_without_context(real_base):
    """The bridge's promise: untrained vectors do not disturb the decoder."""
    text = "Penguins live on the coasts of Antarctica."
    latents = real_base.compress([text])
    with_vectors = real_base.log_likelihood(latents, [text], reduction="mean").item()
    nothing = real_base.log_likelihood(torch.zeros_like(latents), [text], reduction="mean").item()
    assert with_vectors == pytest.approx(nothing, abs=0.5)
    expected, count = plain_log_likelihood(real_base, latents[0], text)
    assert with_vectors == pytest.approx(expected / count, rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "gemma"])
def test_states_are_those_that_predict_each_target_token(tiny_folders, family):
    """Row by row, without the padding, also where a target holds the padding token."""
    model = AutoRegModel.from_pretrained(tiny_folders[family], dtype="float32", device="cpu")
    decoder = model.decoder
    eos = model.backbone.tokenizer.eos_token_id
    targets = [[5, eos, 0, eos], [eos], list(range(40, 90)), [0, 0, eos]]
    prefix = model.neck.bridge(model.compress(TARGETS))
    with torch.no_grad():
        hidden, tokens = decoder.states(prefix, targets)
        assert tokens.tolist() == [token for ids in targets for token in ids]
        start = 0
        for row, ids in zip(prefix, targets, strict=True):
            vectors = torch.cat([row, model.backbone.embed(torch.tensor(ids[:-1], dtype=int))])
            states = model.backbone.body(inputs_embeds=vectors[None]).last_hidden_state[0]
            part = hidden[start : start + len(ids)]
            torch.testing.assert_close(part, states[-len(ids) :], rtol=1e-4, atol=1e-4)
            start += len(ids)
        assert start == len(hidden)


def test_no_context_is_the_token_that_begins_a_text(tiny_model):
    """The base's own likelihood of the text behind <bos>, and nothing else."""
    decoder, tokenizer = tiny_model.decoder, tiny_model.backbone.tokenizer
    targets = decoder.ids(TARGETS)
    with torch.no_grad():
        prefix = decoder.no_context(len(targets))
        assert prefix.shape == (len(targets), 1, 32)
        found = decoder.log_probs(prefix, targets)
        for score, ids in zip(found, targets, strict=True):
            row = torch.tensor([[tokenizer.bos_token_id, *ids]])
            logits = tiny_model.backbone.language_model(row).logits[0].double()
            table = logits.log_softmax(dim=-1)[:-1]
            expected = table.gather(1, torch.tensor(ids)[:, None]).sum().item()
            assert score.item() == pytest.approx(expected, rel=1e-5)


def test_without_a_token_that_begins_a_text_the_one_that_ends_it_stands_in(tiny_model):
    tokenizer = tiny_model.backbone.tokenizer
    tokenizer.bos_token = None
    expected = tiny_model.backbone.embed(torch.tensor(tokenizer.eos_token_id))
    assert torch.equal(tiny_model.decoder.no_context(2), expected.expand(2, 1, -1))
