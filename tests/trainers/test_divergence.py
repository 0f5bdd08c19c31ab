import math

import pytest
import torch

from autoreg_rag.head import Head
from autoreg_trainers.divergence import CHUNK, token_divergence
from tests.trainers.plain import js, kl

PLAIN = {"kl": kl, "js": js}


def made(positions, scale=1.0):
    generator = torch.Generator().manual_seed(positions)
    p, q = (scale * torch.randn(2, positions, 12, generator=generator)).unbind()
    return p.requires_grad_(), q.requires_grad_(), torch.randn(40, 12, generator=generator)


def plain_divergence(kind, p, q, weight, bias=0.0, scale=1.0, softcap=None):
    def log_softmax(hidden):
        logits = scale * (hidden @ weight.double().T + bias)
        return (logits if softcap is None else softcap * torch.tanh(logits / softcap)).log_softmax(
            1
        )

    return torch.stack([PLAIN[kind](log_softmax(p[i : i + 1]), log_softmax(q[i : i + 1]))
                        for i in range(len(p))])  # fmt: skip


@pytest.mark.parametrize(
    "beside", [{}, {"softcap": 4.0}, {"scale": 0.3, "bias": torch.linspace(-3, 3, 40)}]
)
@pytest.mark.parametrize("positions", [1, 7, CHUNK + 5])
@pytest.mark.parametrize("kind", ["kl", "js"])
def test_values_and_gradients_are_those_of_full_distributions(kind, positions, beside):
    p, q, weight = made(positions)
    later = torch.randn(positions)
    found = token_divergence(kind, p, q, Head(weight, **beside))
    assert found.dtype == torch.float32
    exact = [value.detach().double().requires_grad_() for value in (p, q)]
    expected = plain_divergence(kind, *exact, weight, **beside)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad((found * later).sum(), (p, q))
    wanted = torch.autograd.grad((expected * later).sum(), exact)
    for gradient, value in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["kl", "js"])
def test_a_distribution_does_not_differ_from_itself(kind):
    p, _, weight = made(20)
    q = p.detach().clone().requires_grad_()
    found = token_divergence(kind, p, q, Head(weight))
    assert found.abs().max() < 1e-6
    for gradient in torch.autograd.grad(found.sum(), (p, q)):
        assert gradient.abs().max() < 1e-5


def test_js_is_symmetric_and_bounded_and_kl_is_neither():
    p, q, weight = made(30, scale=20)
    js_values = token_divergence("js", p, q, Head(weight))
    torch.testing.assert_close(js_values, token_divergence("js", q, p, Head(weight)))
    assert js_values.max() <= math.log(2) + 1e-6
    kl_values = token_divergence("kl", p, q, Head(weight))
    assert kl_values.max() > math.log(2)
    assert not torch.allclose(kl_values, token_divergence("kl", q, p, Head(weight)), rtol=0.1)
    gradients = torch.autograd.grad((js_values + kl_values).sum(), (p, q))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_no_positions_give_no_values():
    p, q, weight = made(0)
    assert token_divergence("js", p, q, Head(weight)).shape == (0,)


@pytest.mark.parametrize("kind", ["kl", "js"])
def test_close_distributions_of_bfloat16_states_are_told_apart(kind):
    """Logits rounded to bfloat16 were further from each other than the distributions are."""
    p, q, weight = made(64, scale=6)
    p = p.detach().bfloat16()
    q = (p + 0.02 * q.detach()).bfloat16()
    expected = plain_divergence(kind, p.double(), q.double(), weight.bfloat16()).mean()
    found = token_divergence(kind, p, q, Head(weight.bfloat16())).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
