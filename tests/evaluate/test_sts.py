from __future__ import annotations

import numpy as np
import pytest

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.sts import evaluate_sts, is_sts_file, load_sts_set


def ranks(values: list[float]) -> list[float]:
    """Ranks from 1, the mean rank for ties."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def spearman(first: list[float], second: list[float]) -> float:
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz"])
def test_a_file_is_read_with_its_quotes_as_they_stand(tmp_path, sts_file, name):
    path = sts_file(tmp_path / name)
    dataset = load_sts_set(path)
    assert is_sts_file(path)
    assert dataset.name == "pairs"
    assert dataset.scores == (5.0, 0.5, 4.0, 2.0, 2.0)
    assert (dataset.first[2], dataset.second[2]) == ('He said "yes', "He said yes to her")
    assert load_sts_set(path, limit=2).scores == (5.0, 0.5)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("high\ta\tb", "line 3: the score 'high' is not a number"),
        ("nan\ta\tb", "line 3: the score 'nan' is not a number"),
        ("1.5\tonly one", "line 3: 2 fields where 3 belong"),
        ("1.5\ta\tb\tc", "line 3: 4 fields where 3 belong"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, problem):
    path = tmp_path / "bad.tsv"
    path.write_text(f"score\tsentence1\tsentence2\n1\ta\tb\n{line}\n")
    with pytest.raises(EvaluationError, match=f"bad.tsv, {problem}"):
        load_sts_set(path)


def test_another_header_is_refused(tmp_path):
    path = tmp_path / "other.tsv"
    path.write_text("sentence1\tsentence2\tscore\na\tb\t1\n")
    assert not is_sts_file(path)
    with pytest.raises(EvaluationError, match=r"other.tsv, line 1: expected .*header"):
        load_sts_set(path)


@pytest.mark.parametrize("pairs", [[], [(1, "a", "b")], [(1, "a", "b"), (1, "c", "d")]])
def test_scores_that_rank_nothing_are_refused(tmp_path, sts_file, pairs):
    with pytest.raises(EvaluationError, match="two different scores"):
        load_sts_set(sts_file(tmp_path / "flat.tsv", pairs))


@pytest.mark.parametrize("role", ["query", "document"])
def test_the_score_is_the_rank_correlation_of_the_cosines(tmp_path, sts_file, encoder, role):
    dataset = load_sts_set(sts_file(tmp_path / "pairs.tsv"))
    encode = encoder.encode_queries if role == "query" else encoder.encode_documents
    cosines = [
        float(encode([first])[0] @ encode([second])[0])
        for first, second in zip(dataset.first, dataset.second, strict=True)
    ]
    (result,) = evaluate_sts(dataset, [encoder], role=role)
    assert result.metrics == {"Spearman": pytest.approx(spearman(cosines, list(dataset.scores)))}
    assert (result.name, result.system, result.sizes) == ("pairs", "word vectors", {"pairs": 5})


def test_an_encoder_that_maps_all_texts_to_one_vector_scores_zero(tmp_path, sts_file):
    class Collapsed:
        name = "collapsed"

        def encode_documents(self, texts, *, show_progress=False):
            return np.ones((len(texts), 1), dtype=np.float32)

        encode_queries = encode_documents

    dataset = load_sts_set(sts_file(tmp_path / "pairs.tsv"))
    assert evaluate_sts(dataset, [Collapsed()])[0].metrics == {"Spearman": 0.0}
