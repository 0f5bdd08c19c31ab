import pytest
import torch

from autoreg_rag.rerank import head
from autoreg_rag.rerank.head import token_log_probs


def expected(hidden, weight, targets, softcap):
    logits = hidden.double() @ weight.double().T
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].float()


@pytest.fixture
def inputs():
    torch.manual_seed(5)
    return torch.randn(70, 32) * 3, torch.randn(2500, 32), torch.randint(2500, (70,))


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("rows", [1, 33, 512])
def test_blocks_of_rows_and_of_the_vocabulary_change_nothing(inputs, softcap, rows, monkeypatch):
    monkeypatch.setattr(head, "ROWS", rows)
    scores = token_log_probs(*inputs, softcap=softcap)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected(*inputs, softcap), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("likely", [True, False])
def test_bfloat16_logits_cost_less_than_they_do_in_a_plain_log_softmax(inputs, likely):
    hidden, weight, targets = inputs
    hidden, weight = (hidden / 6).bfloat16(), weight.bfloat16()  # no single token rules
    if likely:
        targets = (hidden @ weight.T).argmax(dim=1)
    exact = expected(hidden, weight, targets, None)
    plain = (hidden @ weight.T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    scores = token_log_probs(hidden, weight, targets)
    assert (scores <= 0).all()
    assert (scores - exact).abs().mean() < 0.7 * (plain - exact).abs().mean()


def test_no_tokens_have_no_scores(inputs):
    hidden, weight, targets = inputs
    assert token_log_probs(hidden[:0], weight, targets[:0]).shape == (0,)
