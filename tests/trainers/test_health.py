"""The embeddings' health against plain float64 and known cases."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from autoreg_trainers.health import alignment, effective_rank, uniformity

SHAPES = [(2, 3), (7, 5), (64, 576)]


def unit(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(shape, generator=generator), dim=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_definitions_in_float64(shape):
    x, y = unit(shape, 1), unit(shape, 2)
    a, b = x.double().numpy(), y.double().numpy()
    n = len(a)
    assert alignment(x, y).item() == pytest.approx(
        np.mean([np.linalg.norm(p - q) ** 2 for p, q in zip(a, b, strict=True)]), rel=1e-5
    )
    pairs = [(i, j) for i in range(n) for j in range(i)]
    for t in (1, 2, 5):
        kernel = [math.exp(-t * np.linalg.norm(a[i] - a[j]) ** 2) for i, j in pairs]
        assert uniformity(x, t).item() == pytest.approx(math.log(np.mean(kernel)), rel=1e-4)
    values = np.linalg.svd(a, compute_uv=False)
    share = values / values.sum()
    rank = math.exp(-sum(p * math.log(p) for p in share))
    assert effective_rank(x).item() == pytest.approx(rank, rel=1e-5)


def test_vectors_that_coincide():
    x = unit((1, 12), 3).expand(9, 12)
    assert alignment(x, x).item() == 0
    assert uniformity(x).item() == pytest.approx(0, abs=1e-5)
    assert effective_rank(x).item() == pytest.approx(1, abs=1e-4)


def test_vectors_at_right_angles():
    x = torch.eye(8, 20)
    assert alignment(x, x.flip(0)).item() == pytest.approx(2)
    assert uniformity(x).item() == pytest.approx(-4)  # all squared distances are 2
    assert effective_rank(x).item() == pytest.approx(8, rel=1e-5)


def test_opposite_pairs():
    x = unit((5, 6), 4)
    assert alignment(x, -x).item() == pytest.approx(4, rel=1e-5)


def test_a_single_vector_has_no_pairs():
    x = unit((1, 6), 5)
    assert uniformity(x).isnan()
    assert effective_rank(x).item() == pytest.approx(1)


def test_turning_and_reordering_changes_nothing():
    x = unit((10, 6), 6)
    turned = x.flip(0) @ torch.linalg.qr(unit((6, 6), 8)).Q
    for measure in (uniformity, effective_rank):
        assert measure(turned).item() == pytest.approx(measure(x).item(), rel=1e-4)


def test_half_precision_is_measured_in_float32():
    x = unit((32, 48), 7)
    for measure in (uniformity, effective_rank, lambda x: alignment(x, x.flip(0))):
        value = measure(x.bfloat16())
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(measure(x).item(), rel=2e-2)


def test_vectors_of_a_run_that_diverged_are_told_and_stop_nothing():
    x = unit((4, 6), 9)
    x[1, 2] = math.nan
    for measure in (uniformity, effective_rank, lambda x: alignment(x, x.flip(0))):
        assert measure(x).isnan()
