from __future__ import annotations

import numpy as np
import pytest

from autoreg_rag.errors import EvaluationError, ModelError
from autoreg_rag.evaluate.optional import require
from autoreg_rag.evaluate.peer import SentenceTransformerPeer

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["cats sleep", "rain", "dogs bark at rain", "cats"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A real sentence-transformers model, of six word vectors and two prompts."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[UNK]", "cats", "dogs", "rain", "sleep", "ask"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.random.default_rng(0).normal(size=(len(words), 5)).astype(np.float32)
    model = sentence_transformers.SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)],
        prompts={"query": "ask ", "document": ""},
        device="cpu",
    )
    folder = tmp_path_factory.mktemp("models") / "six-words"
    model.save(str(folder))
    return folder


def test_a_peer_embeds_each_role_as_its_own_package_does(model_folder):
    peer = SentenceTransformerPeer(str(model_folder), device="cpu")
    model = sentence_transformers.SentenceTransformer(str(model_folder), device="cpu")
    assert peer.name == "six-words"
    for ours, theirs in (
        (peer.encode_queries(TEXTS), model.encode([f"ask {text}" for text in TEXTS])),
        (peer.encode_documents(TEXTS), model.encode(TEXTS)),
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-6)
        expected = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert not np.allclose(peer.encode_queries(TEXTS), peer.encode_documents(TEXTS))


def test_a_folder_without_a_model_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match="sentence-transformers cannot load") as caught:
        SentenceTransformerPeer(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_named_with_the_way_to_get_it():
    with pytest.raises(EvaluationError, match=r"needs no_such_package.*pip install 'some-extra'"):
        require("no_such_package.module", "some-extra")
