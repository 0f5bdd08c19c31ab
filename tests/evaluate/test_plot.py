"""The picture of results: in each format, a row per set, a mark per system and set."""

import pytest
from matplotlib import rc_context

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.plot import FORMATS, check_plot, draw_results
from autoreg_rag.evaluate.results import Result

RESULTS = [
    *(Result("retrieval", name, "model", {"nDCG@10": 0.5, "MRR@10": 0.7}) for name in "ab"),
    *(Result("retrieval", name, "BM25", {"nDCG@10": 0.4, "MRR@10": 0.6}) for name in "ab"),
    Result("sts", "pairs", "model", {"Spearman": -0.1}),
]


def drawn(path, results):
    with rc_context({"svg.fonttype": "none"}):  # letters stay letters
        draw_results(results, path)
    return path.read_text()


def test_sets_systems_and_means_have_their_names(tmp_path):
    picture = drawn(tmp_path / "results.svg", RESULTS)
    for name in ["a", "b", "mean of 2", "pairs", "model", "BM25", "Retrieval: nDCG@10 × 100"]:
        assert f">{name}</text>" in picture
    assert "MRR" not in picture
    alone = drawn(tmp_path / "alone.svg", RESULTS[-1:])
    assert ">mean of" not in alone
    assert ">Retrieval" not in alone


def test_each_result_moves_a_mark(tmp_path):
    before = drawn(tmp_path / "before.svg", RESULTS)
    for number, result in enumerate(RESULTS):
        changed = [*RESULTS]
        changed[number] = Result(
            result.task, result.name, result.system, {next(iter(result.metrics)): 0.9, "MRR@10": 1}
        )
        assert drawn(tmp_path / "after.svg", changed).count("<use") == before.count("<use")
        assert _places(drawn(tmp_path / "after.svg", changed)) != _places(before)


def test_a_system_looks_the_same_in_every_panel(tmp_path):
    before = drawn(tmp_path / "one.svg", RESULTS[:4])
    after = drawn(tmp_path / "two.svg", [*RESULTS[:4], Result("sts", "c", "BM25", {"r": 0.1})])
    first, second = "#0072b2", "#d55e00"
    assert after.count(first) == before.count(first)
    assert after.count(second) > before.count(second)


def _places(picture):
    return [line for line in picture.splitlines() if "<use" in line]


@pytest.mark.parametrize("ending", FORMATS)
def test_the_ending_says_the_format(tmp_path, ending):
    path = tmp_path / f"results{ending.upper()}"
    check_plot(path)
    draw_results(RESULTS, path)
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(begins[ending])
    assert list(tmp_path.iterdir()) == [path]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"results\.jpg.*\.png, \.svg, \.pdf"):
        check_plot(tmp_path / "results.jpg")
