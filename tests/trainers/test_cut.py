import weakref

import pytest
import torch

from autoreg_trainers.cut import rowwise


def curved(_, x, y):
    """One number a row, of two inputs, each row for itself."""
    return (x.sin() * y).sum(dim=(1, 2)) + x[:, 0, 0] * y.square().mean(dim=(1, 2))


@pytest.mark.parametrize(
    "batches", [[[0, 1, 2, 3, 4]], [[4], [2], [0], [1], [3]], [[3, 0], [4, 1, 2]]]
)
def test_values_and_gradients_are_those_of_the_whole_graph(batches):
    x = torch.randn(5, 3, 2, requires_grad=True)
    y = torch.randn(5, 3, 2, requires_grad=True)
    later = torch.randn(5)

    def loss(values):  # not a plain sum: what comes later must reach every row
        return (later * values.tanh()).sum() + values.square().sum()

    whole = curved(None, x, y)
    expected = torch.autograd.grad(loss(whole), (x, y))
    cut = rowwise(curved, batches, x, y)
    torch.testing.assert_close(cut, whole)
    torch.testing.assert_close(torch.autograd.grad(loss(cut), (x, y)), expected)


def test_gradients_flow_on_through_what_made_the_inputs():
    weight = torch.randn(4, 4, requires_grad=True)
    source = torch.randn(6, 4)

    def function(_, x):
        return x.exp().sum(dim=1)

    (expected,) = torch.autograd.grad(function(None, source @ weight).log().sum(), weight)
    rows = [[5, 1], [0], [2, 3, 4]]
    (found,) = torch.autograd.grad(rowwise(function, rows, source @ weight).log().sum(), weight)
    torch.testing.assert_close(found, expected)


def test_the_function_sees_which_rows_it_is_given():
    x = torch.arange(6.0)[:, None].requires_grad_()
    offsets = torch.tensor([3.0, 1, 4, 1, 5, 9])

    def function(rows, x):
        assert x[:, 0].tolist() == list(rows)
        return x[:, 0] * offsets[list(rows)]

    values = rowwise(function, [[4, 2], [0, 5], [1, 3]], x)
    assert values.tolist() == [0, 1, 8, 3, 20, 45]
    values.sum().backward()
    assert x.grad[:, 0].tolist() == offsets.tolist()


def test_the_graph_of_one_batch_is_gone_before_the_next_is_built():
    x = torch.randn(4, 3, requires_grad=True)
    alive = []

    def function(_, x):
        assert not any(reference() is not None for reference in alive)
        inner = x.sin()
        alive.append(weakref.ref(inner))
        return (inner * inner).sum(dim=1)

    rowwise(function, [[0], [1], [2, 3]], x).sum().backward()
    assert len(alive) == 3


def test_nothing_is_kept_where_no_gradient_is_wanted():
    x = torch.randn(3, 2)

    def function(_, x):
        assert not torch.is_grad_enabled()
        return x.sum(dim=1)

    assert not rowwise(function, [[0, 1, 2]], x).requires_grad
    with torch.no_grad():
        assert not rowwise(function, [[0, 1, 2]], x.requires_grad_()).requires_grad


def test_inputs_that_need_no_gradient_get_none():
    x, y = torch.randn(3, 1, 2, requires_grad=True), torch.randn(3, 1, 2)
    rowwise(curved, [[0, 2], [1]], x, y).sum().backward()
    assert x.grad is not None
    assert y.grad is None


def test_values_are_float32_and_gradients_of_the_inputs_format():
    x = torch.randn(3, 1, 2).bfloat16().requires_grad_()
    values = rowwise(lambda _, x: x.float().sum(dim=(1, 2)), [[0, 1], [2]], x)
    assert values.dtype == torch.float32
    values.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert x.grad.eq(1).all()


def test_no_rows_give_no_values():
    x = torch.randn(0, 3, requires_grad=True)
    values = rowwise(lambda _, x: x.sum(dim=1), [], x)
    assert values.shape == (0,)
    values.sum().backward()
    assert x.grad.shape == (0, 3)
