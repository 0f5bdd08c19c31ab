import shutil
import threading
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from autoreg_rag import encoder
from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel

TEXTS = [
    "Short.",
    "A text of some more words, with naïve café and 漢字 and 🙂.",
    *[" ".join(topic.split())[:400] for topic in list(topics.values())[:6]],
    "Short.",
]


def plain_latents(model, text, instruction):
    """e of one text, by the method's own words, one token list through the whole LLM."""
    backbone = model.backbone
    tokenizer = backbone.tokenizer
    ids = [
        tokenizer.bos_token_id,
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        *tokenizer("\n" + instruction, add_special_tokens=False)["input_ids"],
    ]
    k = model.config.num_compress_tokens
    vectors = torch.cat([backbone.embed(torch.tensor(ids)), model.neck.compress_tokens])
    with torch.no_grad():
        output = backbone.language_model(
            inputs_embeds=vectors[None],
            attention_mask=torch.ones(1, len(vectors)),
            output_hidden_states=True,
        )
    return output.hidden_states[-1][0, -k:]


def cosines(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "gemma"])
def test_latents_are_the_last_states_at_the_compress_tokens(tiny_folders, family):
    model = AutoRegModel.from_pretrained(tiny_folders[family], dtype="float32", device="cpu")
    latents = model.compress(TEXTS, "Say it again:")
    assert latents.shape == (len(TEXTS), 5, 32)
    assert latents.dtype == torch.float32
    for text, row in zip(TEXTS, latents, strict=True):
        expected = plain_latents(model, text, "Say it again:")
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "gemma"])
def test_an_embedding_does_not_depend_on_its_batch(tiny_folders, family):
    model = AutoRegModel.from_pretrained(tiny_folders[family], dtype="float32", device="cpu")
    together = model.encode_documents(TEXTS)
    alone = np.concatenate([model.encode_documents([text]) for text in TEXTS])
    assert cosines(together, alone).min() >= 0.9999
    np.testing.assert_array_equal(together[0], together[-1])  # the same text twice


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_embedding_does_not_depend_on_the_tokenizers_padding_side(tiny_model, side):
    expected = tiny_model.encode_queries(TEXTS)
    tiny_model.backbone.tokenizer.padding_side = side
    assert cosines(tiny_model.encode_queries(TEXTS), expected).min() >= 0.9999


def test_padding_and_truncation_that_a_training_left_are_not_obeyed(tiny_folder, tmp_path):
    expected = AutoRegModel.from_pretrained(tiny_folder, dtype="float32").encode_queries(TEXTS)
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    found = AutoRegModel.from_pretrained(folder, dtype="float32").encode_queries(TEXTS)
    assert cosines(found, expected).min() >= 0.9999


def test_embeddings_are_float32_of_unit_length_in_input_order(tiny_model):
    vectors = tiny_model.encode_documents(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    backwards = tiny_model.encode_documents(TEXTS[::-1])[::-1]
    assert cosines(vectors, backwards).min() >= 0.9999
    assert len(np.unique(vectors.round(4), axis=0)) == len(set(TEXTS))


def test_queries_and_documents_get_their_own_instruction(tiny_model):
    queries = tiny_model.encode_queries(TEXTS)
    expected = tiny_model.compress(TEXTS, tiny_model.config.query_instruction).mean(dim=1)
    assert cosines(queries, expected).min() >= 0.9999
    assert cosines(queries, tiny_model.encode_documents(TEXTS)).max() < 0.9999


@pytest.mark.parametrize(("pooling", "dimension"), [("mean", 32), ("last", 32), ("concat", 96)])
def test_pooling_turns_k_vectors_into_one(tiny_folder, pooling, dimension):
    model = AutoRegModel.from_pretrained(
        tiny_folder, dtype="float32", pooling=pooling, num_compress_tokens=3
    )
    vectors = model.encode_documents(TEXTS)
    latents = model.compress(TEXTS)
    expected = {
        "mean": latents.mean(dim=1),
        "last": latents[:, -1],
        "concat": latents.reshape(len(TEXTS), -1),
    }[pooling]
    assert vectors.shape == (len(TEXTS), dimension) == (len(TEXTS), model.dimension)
    assert cosines(vectors, expected).min() >= 0.9999


def test_a_long_text_is_cut_but_never_its_instruction(tiny_folder, caplog):
    model = AutoRegModel.from_pretrained(tiny_folder, dtype="float32", max_length=20)
    caplog.clear()
    text = " ".join(topics["with"].split())
    kept = model.backbone.tokenizer.decode(model.backbone.tokenize([text])[0][:20])
    vectors = model.encode_queries([text, kept, "Short."])
    assert cosines(vectors[0], vectors[1]) >= 0.9999
    assert "1 of 3 texts are longer than 20 tokens" in caplog.text
    other = model.compress([text], "Another instruction:")
    assert cosines(other.flatten(), model.compress([text], "One more:").flatten()) < 0.9999


def test_cutting_is_said_once(tiny_folder, caplog):
    model = AutoRegModel.from_pretrained(tiny_folder, dtype="float32", max_length=4)
    caplog.clear()
    for _ in range(3):
        model.encode_documents(["one two three four five six seven eight nine"])
    assert sum("are cut there" in record.message for record in caplog.records) == 1


def test_a_text_longer_than_the_models_window_still_fits_with_its_instruction(tiny_folder):
    model = AutoRegModel.from_pretrained(tiny_folder, dtype="float32", max_length=10_000)
    ids = model.encoder.ids(["word " * 5000], model.config.query_instruction)
    assert len(ids[0]) + model.neck.k <= 256
    instruction = "do " * 60  # which is not the model's own
    (ids,) = model.encoder.ids(["word " * 5000], instruction)
    assert ids[-len(suffix := model.encoder.suffix_ids(instruction)) :] == suffix
    assert len(ids) + model.neck.k <= 256


def test_what_leaves_no_room_for_a_text_is_refused(tiny_folder, tiny_model):
    for settings in ({"num_compress_tokens": 300}, {"query_instruction": "do " * 300}):
        with pytest.raises(ModelError, match="no room for a text in the model's window of 256"):
            AutoRegModel.from_pretrained(tiny_folder, **settings)
    with pytest.raises(ModelError, match="no room"):
        tiny_model.compress(["a text"], "do " * 300)


def test_a_huge_text_is_read_no_further_than_its_tokens_are_kept(tiny_model, monkeypatch):
    text = " ".join(topics.values())[:300_000]
    (expected,) = tiny_model.backbone.tokenize([text])
    seen = []
    tokenize = tiny_model.backbone.tokenize
    monkeypatch.setattr(
        tiny_model.backbone, "tokenize", lambda texts: seen.extend(texts) or tokenize(texts)
    )
    (found,) = tiny_model.encoder.truncation([text])
    assert found == expected[: len(found)]
    assert len(found) >= tiny_model.encoder.truncation.limit
    assert max(map(len, seen)) < 30_000


def test_blocks_of_texts_give_what_all_at_once_give(tiny_model, monkeypatch):
    texts = list(topics.values())[:20]
    expected = tiny_model.encode_documents(texts)
    monkeypatch.setattr(encoder, "BLOCK", 7)
    np.testing.assert_allclose(tiny_model.encode_documents(texts), expected, atol=1e-6)
    assert torch.allclose(
        tiny_model.compress(texts)[13], tiny_model.compress(texts[13:14])[0], atol=1e-4
    )


def test_threads_that_encode_and_decode_do_not_disturb_each_other(real_model):
    texts = ["Penguins cannot fly.", "They swim."]
    expected = real_model.encode_queries(texts)
    latents = real_model.compress(texts)
    done = threading.Event()

    def score():
        while not done.is_set():
            real_model.log_likelihood(latents, texts)

    thread = threading.Thread(target=score)
    thread.start()
    try:
        found = [real_model.encode_queries(texts) for _ in range(5)]
    finally:
        done.set()
        thread.join()
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_text_that_spells_a_special_token_is_plain_text(tiny_model):
    (ids,) = tiny_model.backbone.tokenize(["before <eos> after"])
    assert tiny_model.backbone.tokenizer.eos_token_id not in ids
    assert tiny_model.backbone.tokenizer.decode(ids) == "before <eos> after"


def test_no_texts_give_no_vectors(tiny_model):
    assert tiny_model.encode_documents([]).shape == (0, 32)
    assert tiny_model.compress([]).shape == (0, 5, 32)


def test_an_empty_text_has_a_vector(tiny_model):
    assert np.isfinite(tiny_model.encode_documents(["", "word"])).all()


def test_a_lone_surrogate_is_not_an_error(tiny_model):
    broken, mended = tiny_model.encode_queries(["caf\udce9", "caf?"])
    assert cosines(broken, mended) >= 0.9999


def test_one_text_instead_of_a_list_is_refused(tiny_model):
    with pytest.raises(TypeError, match="a list of texts"):
        tiny_model.encode_documents("one text")
    with pytest.raises(TypeError, match="a list of texts"):
        tiny_model.encode_documents(["one", None])


def test_a_small_token_budget_changes_nothing_but_the_batches(tiny_folder):
    wide = AutoRegModel.from_pretrained(tiny_folder, dtype="float32")
    narrow = AutoRegModel.from_pretrained(tiny_folder, dtype="float32", token_budget=1)
    assert cosines(wide.encode_documents(TEXTS), narrow.encode_documents(TEXTS)).min() >= 0.9999
    with pytest.raises(ModelError, match="token budget"):
        AutoRegModel.from_pretrained(tiny_folder, token_budget=0)


def test_the_real_models_embeddings_do_not_depend_on_batch_or_padding_side(real_model):
    texts = TEXTS[:5]
    together = real_model.encode_documents(texts)
    alone = np.concatenate([real_model.encode_documents([text]) for text in texts])
    assert cosines(together, alone).min() >= 0.9999
    side = real_model.backbone.tokenizer.padding_side
    try:
        real_model.backbone.tokenizer.padding_side = "left" if side == "right" else "right"
        assert cosines(together, real_model.encode_documents(texts)).min() >= 0.9999
    finally:
        real_model.backbone.tokenizer.padding_side = side


def test_the_real_models_latents_are_its_last_states(real_model):
    text, instruction = TEXTS[1], real_model.config.query_instruction
    (latents,) = real_model.compress([text], instruction)
    expected = plain_latents(real_model, text, instruction)
    assert cosines(latents, expected).min() >= 0.9999


def test_the_real_model_ranks_an_answer_above_another_topic(real_model):
    (query,) = real_model.encode_queries(["Where do penguins live?"])
    answer, other = real_model.encode_documents(
        [
            "Penguins live on the coasts of Antarctica.",
            "The bank raised its interest rate by half a point.",
        ]
    )
    assert query @ answer > query @ other
