import pytest
import torch

from autoreg_rag.likelihood import CHUNK, token_log_probs


def plain_log_probs(hidden, weight, targets, softcap=None):
    """The definition, in float64 and over full logits."""
    logits = hidden.double() @ weight.double().T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(dim=-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("positions", [0, 1, CHUNK, 2 * CHUNK + 3])
def test_chunks_give_what_full_logits_give(positions, softcap):
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, 16, generator=generator)
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (positions,), generator=generator)
    scores = token_log_probs(hidden, weight, targets, softcap=softcap)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(
        scores.double(), plain_log_probs(hidden, weight, targets, softcap), rtol=1e-5, atol=1e-5
    )


def test_sums_run_in_float32_even_for_bfloat16_states():
    generator = torch.Generator().manual_seed(0)
    hidden = (30 * torch.randn(64, 16, generator=generator)).bfloat16()
    weight = torch.randn(50, 16, generator=generator).bfloat16()
    targets = torch.randint(50, (64,), generator=generator)
    logits = (hidden @ weight.T).double()  # the product itself is rounded to bfloat16
    expected = logits.log_softmax(dim=-1)[torch.arange(64), targets]
    scores = token_log_probs(hidden, weight, targets)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-4)
