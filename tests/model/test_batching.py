from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from autoreg_rag.batching import SMALL_BATCH, length_buckets, right_padded


@given(st.lists(st.integers(1, 600)), st.integers(1, 2048))
def test_buckets_hold_every_position_once_and_keep_to_the_budget(lengths, budget):
    batches = list(length_buckets(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(st.lists(st.integers(1, 600), min_size=2), st.integers(1, 2048))
def test_a_bucket_is_never_split_without_need(lengths, budget):
    batches = list(length_buckets(lengths, budget))
    for first, second in pairwise(batches):
        longest = max(lengths[i] for i in first)
        assert (len(first) + 1) * longest > budget
        assert min(lengths[i] for i in first) >= max(lengths[i] for i in second)


@given(
    st.lists(st.integers(1, 600)),
    st.integers(1, 2048),
    st.floats(0, 1),
    st.sampled_from([1, SMALL_BATCH, 1024]),
)
def test_a_bound_on_padding_splits_only_what_is_large_and_wasteful(lengths, budget, padding, small):
    batches = list(length_buckets(lengths, budget, padding=padding, small=small))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        joining = -(-small // longest)  # rows that may join whatever their length
        for position in batch[joining:]:
            assert lengths[position] >= (1 - padding) * longest
    for first, second in pairwise(batches):
        longest = max(lengths[i] for i in first)
        full = (len(first) + 1) * longest > budget
        wasteful = max(lengths[i] for i in second) < (1 - padding) * longest
        assert full or (wasteful and len(first) * longest >= small)


@given(st.lists(st.lists(st.integers(0, 99), max_size=9), min_size=1), st.integers(0, 3))
def test_padding_goes_behind_the_ids_and_lengths_tell_them_apart(sequences, extra):
    ids, lengths = right_padded(sequences, torch.device("cpu"), extra=extra)
    assert ids.shape == (len(sequences), max(map(len, sequences)) + extra)
    assert [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)] == sequences
    for row, length in zip(ids, lengths, strict=True):
        assert not row[length:].any()
