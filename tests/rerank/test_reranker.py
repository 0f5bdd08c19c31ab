import dataclasses
import logging

import numpy as np
import pytest
import torch

from autoreg_rag import Reranker
from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.errors import ModelError
from autoreg_rag.rerank import likelihoods
from autoreg_rag.scores import DEFAULT_FUSION, SCORES
from tests.rerank.conftest import FAMILIES, QUERY, TEXTS, load
from tests.rerank.plain import Plain


def hits_of(texts, scores=None, metadata=None):
    scores = [1 - place / 10 for place in range(len(texts))] if scores is None else scores
    return [
        Hit(
            score,
            Chunk(str(place), text, "docs/a.md", 0, len(text), metadata or {}),
            {"cosine": score},
        )
        for place, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_equations(tiny_folders, family):
    model = load(tiny_folders[family])
    plain = Plain(tiny_folders[family], model)
    for kind in SCORES:
        scores = Reranker(model, score=kind).scores(QUERY, TEXTS)
        expected = [plain.score(kind, QUERY, text) for text in TEXTS]
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=2e-3)
        assert np.ptp(expected) > 0.1


def test_an_adapter_makes_the_vectors_and_not_the_likelihoods(adapted):
    latents = adapted.compress([QUERY], adapted.config.query_instruction)
    own = adapted.compress(TEXTS)
    with torch.inference_mode():
        without = load(adapted.config.base_model).compress(TEXTS)
    assert not torch.allclose(own, without, atol=1e-2)
    given = adapted.log_likelihood(latents.expand(len(TEXTS), -1, -1), TEXTS).double()
    bound = adapted.log_likelihood(own, TEXTS).double()
    prior = adapted.log_likelihood(torch.zeros_like(own), TEXTS).double()
    expected = {"sum": given, "pmi": given - prior, "cda": given - bound}
    for kind, values in expected.items():
        scores = Reranker(adapted, score=kind).scores(QUERY, TEXTS)
        np.testing.assert_allclose(scores, values.numpy(), rtol=1e-5, atol=2e-3)


def test_the_mean_is_that_of_the_model(model):
    latents = model.compress([QUERY], model.config.query_instruction).expand(len(TEXTS), -1, -1)
    means = model.log_likelihood(latents, TEXTS, reduction="mean")
    scores = Reranker(model, score="mean").scores(QUERY, TEXTS)
    np.testing.assert_allclose(scores, means.numpy(), rtol=1e-4)


@pytest.mark.parametrize("kind", SCORES)
def test_scores_do_not_depend_on_the_batch(model, kind, monkeypatch):
    together = Reranker(model, score=kind).scores(QUERY, TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = Reranker(model, score=kind).scores(QUERY, [TEXTS[i] for i in order])
    np.testing.assert_allclose(shuffled, together[order], atol=2e-3)
    for budget in (1, 40, 100_000):
        scores = Reranker(model, score=kind, token_budget=budget).scores(QUERY, TEXTS)
        np.testing.assert_allclose(scores, together, atol=2e-3)
    alone = [Reranker(model, score=kind).scores(QUERY, [text])[0] for text in TEXTS]
    np.testing.assert_allclose(alone, together, atol=2e-3)
    monkeypatch.setattr(likelihoods, "BLOCK", 4)
    np.testing.assert_allclose(
        Reranker(model, score=kind).scores(QUERY, TEXTS), together, atol=2e-3
    )


def test_baselines_can_be_handed_in(model):
    for kind in ("pmi", "cda", "cda_mean"):
        reranker = Reranker(model, score=kind)
        computed, baselines = reranker.scores(QUERY, TEXTS), reranker.baselines(TEXTS)
        np.testing.assert_array_equal(reranker.scores(QUERY, TEXTS, baselines=baselines), computed)
        some = [value if place % 2 else None for place, value in enumerate(baselines.tolist())]
        np.testing.assert_allclose(
            reranker.scores(QUERY, TEXTS, baselines=some), computed, atol=2e-3
        )
        moved = reranker.scores(QUERY, TEXTS, baselines=baselines + 7)
        _, counts = model.decoder.score(model.compress(TEXTS), TEXTS, 1000)
        shift = 7 / counts.numpy() if kind == "cda_mean" else 7
        np.testing.assert_allclose(moved, computed - shift, atol=1e-9)
    for kind in ("sum", "mean"):
        assert Reranker(model, score=kind).baselines(TEXTS) is None


def test_an_empty_instruction_is_none_and_not_that_of_documents(model):
    model.config = dataclasses.replace(model.config, query_instruction="")
    found = Reranker(model, score="sum").scores(QUERY, TEXTS[:1])
    expected = model.log_likelihood(model.compress([QUERY], ""), TEXTS[:1])
    assert found == pytest.approx(expected.numpy(), abs=2e-3)


def test_rerank_orders_hits_and_keeps_what_they_were(model):
    reranker = Reranker(model, score="pmi", fusion=None)
    hits = hits_of(TEXTS)
    best = reranker.rerank(QUERY, hits)
    scores = reranker.scores(QUERY, TEXTS)
    assert [hit.chunk.id for hit in best] == [str(i) for i in np.argsort(-scores)]
    for hit in best:
        place = int(hit.chunk.id)
        assert hit.score == pytest.approx(scores[place], abs=2e-3)
        assert hit.chunk == hits[place].chunk
        old = hits[place].score
        assert hit.scores == {"cosine": old, "retrieval": old, "pmi": hit.score}
    assert hits == hits_of(TEXTS)
    assert reranker.rerank(QUERY, hits, top_n=2) == best[:2]
    assert reranker.rerank(QUERY, []) == []


def test_equal_scores_stay_in_the_order_of_retrieval(model):
    hits = hits_of(["the same text"] * 4 + ["another"])
    best = Reranker(model, fusion=None).rerank(QUERY, hits)
    assert [hit.chunk.id for hit in best if hit.chunk.id != "4"] == ["0", "1", "2", "3"]


def test_fusion_weighs_standard_scores(model):
    stats = pytest.importorskip("scipy.stats")
    retrieval = [0.2, 0.9, 0.4, 0.1, 0.8, 0.3]
    raw = Reranker(model).scores(QUERY, TEXTS)
    assert Reranker(model).fusion == DEFAULT_FUSION
    for weight in (0, 0.3, DEFAULT_FUSION, 1):
        best = Reranker(model, fusion=weight).rerank(QUERY, hits_of(TEXTS, retrieval))
        fused = weight * stats.zscore(retrieval) + (1 - weight) * stats.zscore(raw)
        assert [hit.score for hit in best] == pytest.approx(sorted(fused, reverse=True), abs=1e-4)
        assert [hit.chunk.id for hit in best] == [str(i) for i in np.argsort(-fused)]
    same = Reranker(model, fusion=0.5).rerank(QUERY, hits_of(TEXTS, [0.1] * len(TEXTS)))
    alone = Reranker(model, fusion=None).rerank(QUERY, hits_of(TEXTS))
    assert [hit.chunk.id for hit in same] == [hit.chunk.id for hit in alone]


def test_ten_thousand_candidates_score_as_few_do(model):
    few = [f"{text[:20]} {number}" for number in range(5) for text in TEXTS[:4]]
    reranker = Reranker(model, score="pmi")
    np.testing.assert_allclose(
        reranker.scores(QUERY, few * 500), np.tile(reranker.scores(QUERY, few), 500), atol=2e-3
    )


def test_long_texts_are_cut_with_one_warning(model, caplog):
    long = "A passage that is longer than the window. " * 200
    with caplog.at_level(logging.WARNING):
        scores = Reranker(model, score="cda").scores(long, [long, "short", long + long])
    assert caplog.text.count("are cut there") == 1
    assert scores[0] == pytest.approx(scores[2], abs=2e-3)
    latents = model.compress([long], model.config.query_instruction)
    expected = model.log_likelihood(latents, [long]) - model.log_likelihood(
        model.compress([long]), [long]
    )
    assert scores[0] == pytest.approx(expected.item(), abs=5e-3)


def test_half_characters_count_as_replacements(model):
    broken = Reranker(model).scores("half \ud83d of it", ["an emoji \ud83d cut in two", "b"])
    mended = Reranker(model).scores("half ? of it", ["an emoji ? cut in two", "b"])
    np.testing.assert_allclose(broken, mended)


def test_bad_input_is_named(model):
    reranker = Reranker(model)
    assert reranker.scores(QUERY, []).shape == (0,)
    assert reranker.baselines([]).shape == (0,)
    for query in ("", " \n"):
        with pytest.raises(ValueError, match="question to rerank by is empty"):
            reranker.scores(query, TEXTS)
    for text in ("", " \t", None):
        with pytest.raises(ValueError, match="document 1 has no text"):
            reranker.scores(QUERY, ["good", text])
    with pytest.raises(TypeError, match="list of documents"):
        reranker.scores(QUERY, "one document")
    with pytest.raises(ValueError, match="sum, mean, pmi, cda, cda_mean"):
        Reranker(model, score="bm25")
    with pytest.raises(ValueError, match="from 0 to 1"):
        Reranker(model, fusion=1.5)
    with pytest.raises(ValueError, match="1 or more"):
        Reranker(model, token_budget=0)
    with pytest.raises(ValueError, match="top_n is 0"):
        reranker.rerank(QUERY, hits_of(TEXTS), top_n=0)
    for score in (np.nan, np.inf):
        unfit = hits_of(TEXTS, [0.5, score, *[0.1] * (len(TEXTS) - 2)])
        with pytest.raises(ValueError, match="score of hit 1 is"):
            Reranker(model, fusion=0.5).rerank(QUERY, unfit)
        assert len(Reranker(model, fusion=None).rerank(QUERY, unfit)) == len(TEXTS)
    with pytest.raises(ValueError, match="1 baselines and 6 documents"):
        reranker.scores(QUERY, TEXTS, baselines=[1.0])
    with pytest.raises(ValueError, match="not a finite number"):
        reranker.scores(QUERY, TEXTS[:1], baselines=[float("nan")])
    with pytest.raises(ValueError, match="takes no baselines"):
        Reranker(model, score="sum").scores(QUERY, TEXTS[:1], baselines=[1.0])
    with pytest.raises(ModelError):
        Reranker("/there/is/no/such/model")


def test_a_score_that_is_no_number_is_an_error(model):
    with torch.no_grad():
        model.neck.bridge_matrix.fill_(float("inf"))
    with pytest.raises(ModelError, match="document 0 is nan"):
        Reranker(model, score="sum").scores(QUERY, TEXTS)


def test_the_real_model_scores_as_pair_by_pair(real_model):
    documents = [
        "Penguins live on the coasts of Antarctica.",
        "Bread is baked from flour, water and salt. " * 4,
        "Ja.",
    ]
    query = "Where do penguins live?"
    latents = real_model.compress([query], real_model.config.query_instruction)

    @torch.no_grad()
    def pair(latents, text):
        ids = torch.tensor(real_model.decoder.ids([text])[0])
        prefix = real_model.neck.bridge(latents)[0]
        vectors = torch.cat([prefix, real_model.decoder.backbone.embed(ids)])[None]
        with real_model.as_decoder():
            logits = real_model.decoder.backbone.language_model(inputs_embeds=vectors).logits[0]
        chosen = logits.double().log_softmax(-1)[len(prefix) - 1 : -1].gather(1, ids[:, None])
        return chosen.sum().item()

    given = np.array([pair(latents, text) for text in documents])
    prior = np.array([pair(real_model.neck.bridge_center[None], text) for text in documents])
    own = np.array([pair(real_model.compress([text]), text) for text in documents])
    for kind, expected in {"sum": given, "pmi": given - prior, "cda": given - own}.items():
        scores = Reranker(real_model, score=kind).scores(query, documents)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-2)
