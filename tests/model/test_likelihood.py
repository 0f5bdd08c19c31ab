import threading

import pytest
import torch

from autoreg_rag import likelihood
from autoreg_rag.head import Head
from autoreg_rag.likelihood import CHUNK, token_log_probs

PASSAGE = (
    "Penguins live on the coasts of Antarctica. They cannot fly, but they swim well and dive "
    "deep for fish and krill. The emperor penguin, the largest of them, breeds in winter: the "
    "male holds the egg on his feet for two months and does not eat while the female is at sea."
)


HEADS = {
    "plain": {},
    "capped": {"softcap": 5.0},
    "scaled": {"scale": 0.3},
    "with a bias": {"bias": torch.linspace(-3, 3, 50)},
    "all": {"softcap": 5.0, "scale": 0.3, "bias": torch.linspace(-3, 3, 50)},
}
"""What a head may do beside its product, by name."""

heads = pytest.mark.parametrize("beside", HEADS.values(), ids=HEADS)


def plain_log_probs(hidden, weight, targets, bias=None, scale=1.0, softcap=None):
    """The definition, in float64 and over full logits."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias
    logits = scale * logits
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(dim=-1)[torch.arange(len(targets)), targets]


@heads
@pytest.mark.parametrize("positions", [0, 1, CHUNK, 2 * CHUNK + 3])
def test_chunks_give_what_full_logits_give(positions, beside):
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, 16, generator=generator)
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (positions,), generator=generator)
    scores = token_log_probs(hidden, Head(weight, **beside), targets)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(
        scores.double(), plain_log_probs(hidden, weight, targets, **beside), rtol=1e-5, atol=1e-5
    )


def test_threads_leave_the_precision_of_products_as_it_was():
    hidden = torch.randn(64, 16).bfloat16()
    weight = torch.randn(200, 16).bfloat16()
    before = torch.backends.mkldnn.matmul.fp32_precision

    def work():
        for _ in range(50):
            token_log_probs(hidden, Head(weight), torch.arange(64))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_logits_are_exact_even_for_bfloat16_states():
    """Rounded to bfloat16 they were off by more than the whole of what is allowed here."""
    generator = torch.Generator().manual_seed(0)
    hidden = (30 * torch.randn(64, 16, generator=generator)).bfloat16()
    weight = torch.randn(50, 16, generator=generator).bfloat16()
    targets = torch.randint(50, (64,), generator=generator)
    expected = plain_log_probs(hidden, weight, targets)
    scores = token_log_probs(hidden, Head(weight), targets).double()
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)
    rounded = (hidden @ weight.T).double().log_softmax(dim=-1)[torch.arange(64), targets]
    assert (rounded - expected).abs().mean() > 1000 * (scores - expected).abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(token_log_probs(hidden, Head(weight), targets).double(), scores)


def test_a_passages_likelihood_is_that_of_its_bfloat16_states(real_base):
    """On the default base: what rounded logits make of a passage is off by far more."""
    decoder, base = real_base.decoder, real_base.backbone
    ids = decoder.ids([PASSAGE])
    with torch.no_grad():
        hidden, targets = decoder.states(decoder.no_context(1), ids)
    hidden, weight = hidden.bfloat16(), base.head.weight.bfloat16()
    expected = plain_log_probs(hidden, weight, targets).sum().item()
    scores = token_log_probs(hidden, Head(weight), targets)
    assert scores.sum().item() == pytest.approx(expected, abs=1e-3)
    rounded = (hidden @ weight.T).double().log_softmax(dim=-1)[torch.arange(len(targets)), targets]
    assert abs(rounded.sum().item() - expected) > 0.1


@heads
def test_pieces_of_the_vocabulary_give_what_all_of_it_gives(monkeypatch, beside):
    """Also where the largest logit comes first, last, or in the target's own piece."""
    monkeypatch.setattr(likelihood, "CHUNK", 7)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.arange(50).repeat(2)
    hidden = torch.cat([3 * weight, torch.randn(50, 16, generator=generator)]).requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    expected = plain_log_probs(exact, weight, targets, **beside)
    scores = token_log_probs(hidden, Head(weight, **beside), targets)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    scores.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@heads
@pytest.mark.parametrize("positions", [1, CHUNK, 2 * CHUNK + 3])
def test_gradients_are_those_of_a_log_softmax_over_full_logits(positions, beside):
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, 16, generator=generator).requires_grad_()
    weight = torch.randn(50, 16, generator=generator).requires_grad_()
    targets = torch.randint(50, (positions,), generator=generator)
    later = torch.randn(positions, generator=generator)
    exact = hidden.detach().double().requires_grad_()
    (later * plain_log_probs(exact, weight.detach(), targets, **beside)).sum().backward()
    (later * token_log_probs(hidden, Head(weight, **beside), targets)).sum().backward()
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)
    assert weight.grad is None  # the head is frozen


@heads
def test_gradients_are_the_slopes_of_the_definition(beside):
    """Finite differences in float64."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(6, 8, generator=generator).requires_grad_()
    weight = torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (6,), generator=generator)
    token_log_probs(hidden, Head(weight, **beside), targets).sum().backward()
    for place in range(hidden.numel()):
        step = torch.zeros(hidden.numel(), dtype=torch.float64)
        step[place] = 1e-6
        above, below = (
            plain_log_probs(
                hidden.detach().double() + sign * step.view(6, 8), weight, targets, **beside
            )
            for sign in (1, -1)
        )
        slope = (above - below).sum().item() / 2e-6
        assert hidden.grad.flatten()[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_a_sure_prediction_has_no_gradient_and_a_hopeless_one_a_full_one():
    weight = torch.eye(4)
    hidden = torch.tensor([[200.0, 0, 0, 0], [200.0, 0, 0, 0]]).requires_grad_()
    scores = token_log_probs(hidden, Head(weight), torch.tensor([0, 1]))
    assert scores.tolist() == [0, -200]
    scores.sum().backward()
    assert hidden.grad.tolist() == [[0, 0, 0, 0], [-1, 1, 0, 0]]


def test_nothing_is_worked_out_for_a_gradient_that_nobody_wants():
    hidden, weight = torch.randn(5, 4), torch.randn(9, 4)
    targets = torch.arange(5)
    assert not token_log_probs(hidden, Head(weight), targets).requires_grad
    with torch.no_grad():
        scores = token_log_probs(hidden.requires_grad_(), Head(weight), targets)
    assert not scores.requires_grad


def test_gradients_are_in_the_states_format():
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(9, 16, generator=generator)
    weight = torch.randn(50, 16, generator=generator).bfloat16()
    targets = torch.randint(50, (9,), generator=generator)
    hidden = exact.bfloat16().requires_grad_()
    token_log_probs(hidden, Head(weight), targets).sum().backward()
    assert hidden.grad.dtype == torch.bfloat16
    states = hidden.detach().double().requires_grad_()
    plain_log_probs(states, weight, targets).sum().backward()
    torch.testing.assert_close(hidden.grad.double(), states.grad, rtol=0.03, atol=0.05)
