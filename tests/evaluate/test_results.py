from __future__ import annotations

import json

from autoreg_rag.evaluate.results import Result, markdown, means, to_json

RESULTS = [
    Result("retrieval", "first", "ours", {"nDCG@10": 0.5, "MRR@10": 1.0}, {"queries": 10}),
    Result("retrieval", "first", "BM25", {"nDCG@10": 0.25, "MRR@10": 0.0}, {"queries": 10}),
    Result("sts", "pairs", "ours", {"Spearman": -0.125}, {"pairs": 7}),
    Result("retrieval", "the second", "ours", {"nDCG@10": 0.1, "MRR@10": 0.5}, {"queries": 9}),
    Result("retrieval", "the second", "BM25", {"nDCG@10": 0.75, "MRR@10": 1.0}, {"queries": 9}),
]

TABLES = """\
| set        | queries | system | nDCG@10 | MRR@10 |
| ---------- | ------: | ------ | ------: | -----: |
| first      |      10 | ours   |   50.00 | 100.00 |
| first      |      10 | BM25   |   25.00 |   0.00 |
| the second |       9 | ours   |   10.00 |  50.00 |
| the second |       9 | BM25   |   75.00 | 100.00 |
| mean of 2  |         | ours   |   30.00 |  75.00 |
| mean of 2  |         | BM25   |   50.00 |  50.00 |

| set   | pairs | system | Spearman |
| ----- | ----: | ------ | -------: |
| pairs |     7 | ours   |   -12.50 |"""


def test_a_table_per_task_has_aligned_columns_and_ends_with_the_means():
    assert markdown(RESULTS) == TABLES


def test_a_mean_is_taken_per_system_and_only_over_several_sets():
    assert means(RESULTS) == [
        Result("retrieval", "mean of 2", "ours", {"nDCG@10": 0.3, "MRR@10": 0.75}),
        Result("retrieval", "mean of 2", "BM25", {"nDCG@10": 0.5, "MRR@10": 0.5}),
    ]
    assert means(RESULTS[:3]) == []


def test_json_holds_results_and_means_unscaled():
    content = json.loads(json.dumps(to_json(RESULTS)))
    assert content["results"][2] == {
        "task": "sts",
        "set": "pairs",
        "system": "ours",
        "pairs": 7,
        "metrics": {"Spearman": -0.125},
    }
    assert len(content["results"]) == 5
    assert [mean["system"] for mean in content["means"]] == ["ours", "BM25"]


def test_p_values_have_a_column_where_there_are_some():
    results = [
        Result("retrieval", "first", "ours", {"nDCG@10": 0.5}),
        Result("retrieval", "first", "BM25", {"nDCG@10": 0.25}, p=0.0312),
    ]
    assert (
        markdown(results)
        == """\
| set   | system | nDCG@10 |     p |
| ----- | ------ | ------: | ----: |
| first | ours   |   50.00 |       |
| first | BM25   |   25.00 | 0.031 |"""
    )
    first, second = to_json(results)["results"]
    assert "p" not in first
    assert second["p"] == 0.0312
