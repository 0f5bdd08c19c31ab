from __future__ import annotations

import pytest

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.discovery import load_sets


def test_sets_are_found_at_any_depth_and_other_files_passed_over(
    tmp_path, retrieval_folder, sts_file
):
    retrieval_folder(tmp_path / "b" / "pets", ending=".gz")
    retrieval_folder(tmp_path / "a", qrels_name="qrels/test.tsv")
    sts_file(tmp_path / "b" / "similar.tsv.gz")
    (tmp_path / "notes.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "README.md").write_text("no set")
    assert [dataset.name for dataset in load_sets(tmp_path)] == ["a", "similar", "pets"]


def test_a_folder_and_a_file_can_be_named_themselves(tmp_path, retrieval_folder, sts_file):
    (pets,) = load_sets(retrieval_folder(tmp_path / "pets"), limit=2)
    (similar,) = load_sets(sts_file(tmp_path / "similar.tsv"), limit=3)
    assert (len(pets.queries), len(similar.scores)) == (2, 3)


def test_a_file_that_is_named_must_be_a_set(tmp_path):
    (tmp_path / "notes.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(EvaluationError, match=r"notes.tsv, line 1: expected"):
        load_sets(tmp_path / "notes.tsv")


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(EvaluationError, match="has no evaluation set"):
        load_sets(tmp_path)
    with pytest.raises(EvaluationError, match="nowhere does not exist"):
        load_sets(tmp_path / "nowhere")


def test_a_loop_of_links_ends(tmp_path, retrieval_folder):
    retrieval_folder(tmp_path / "pets")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(load_sets(tmp_path)) == 1


def test_all_shared_sets_are_found(shared_sets):
    sets = {dataset.name: dataset for dataset in load_sets(shared_sets)}
    assert len(sets) == 18
    assert len(sets["cranfield"].documents) == 1398
    assert len(sets["STSB.dev"].scores) == 1500
    # Queries and documents are numbered apart in these; some of equal number belong together.
    assert not any(sets[name].own for name in ("adi", "cranfield", "time"))
    assert sum(query in judged for query, judged in sets["adi"].qrels.items()) == 4
