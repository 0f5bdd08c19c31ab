import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_rag import Reranker
from autoreg_rag.rerank import likelihoods
from autoreg_rag.rerank.budget import TokenBudget
from tests.rerank.conftest import QUERY, TEXTS

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB"


@settings(max_examples=30)  # memory is freed again and again, which takes its time
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 2000), st.integers(50, 500))
def test_what_does_not_fit_is_done_in_smaller_batches(lengths, tokens, memory):
    done, budget = [], TokenBudget(tokens)

    def work(batch):
        if len(batch) * max(lengths[i] for i in batch) > memory:
            raise torch.OutOfMemoryError(MESSAGE)
        done.extend(batch)

    budget.run(lengths, work)
    assert sorted(done) == list(range(len(lengths)))
    assert budget.tokens == tokens or budget.tokens >= memory // 2 - 50


def test_a_sequence_that_does_not_fit_alone_and_other_errors_pass():
    def fail(message):
        def work(batch):
            raise RuntimeError(message)

        return work

    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        TokenBudget(100).run([10, 20, 30], fail(MESSAGE))
    with pytest.raises(RuntimeError, match="shapes differ"):
        TokenBudget(100).run([10, 20, 30], fail("shapes differ"))


def test_scores_are_right_after_memory_ran_out(model, monkeypatch):
    expected = Reranker(model, score="cda").scores(QUERY, TEXTS)
    whole = likelihoods.token_log_probs

    def limited(hidden, *args, **options):
        if len(hidden) > 60:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return whole(hidden, *args, **options)

    monkeypatch.setattr(likelihoods, "token_log_probs", limited)
    reranker = Reranker(model, score="cda")
    np.testing.assert_allclose(reranker.scores(QUERY, TEXTS), expected, atol=2e-3)
