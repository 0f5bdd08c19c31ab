"""What teachers tell of rows' texts is what their own package does, and is worked out once."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from autoreg_rag.errors import ModelError
from autoreg_trainers import teacher as teachers
from autoreg_trainers.blocks import BlocksError
from autoreg_trainers.teacher import COLUMN, MANIFEST_FILE, Teacher
from tests.trainers.plain import TEXTS, loaded, triplets
from tests.trainers.teaching import dataset, make_teacher, recording, taught, vectors_of

BLOCKS = 5
"""Files of the vectors of the rows' nine texts."""


@pytest.fixture
def model(tiny_folder):
    return loaded(tiny_folder)


@pytest.fixture
def rows(model):
    """Rows of which some share texts: as a query, as a symmetric row's query, as a document."""
    rows = triplets(model, negatives=(2, 0, 1, 3))
    rows[0]["negatives"] = [rows[0]["query"], rows[3]["positive"]]
    rows[1]["query"] = rows[0]["query"]
    rows[2] |= {"query": rows[1]["positive"], "symmetric": True}
    rows[3]["query"] = rows[0]["positive"]
    return rows


@pytest.fixture
def peer(monkeypatch):
    """What is loaded and read, of files of two texts."""
    monkeypatch.setattr(teachers, "BLOCK", 2)
    kind = recording()
    monkeypatch.setattr(teachers, "SentenceTransformerPeer", kind)
    return kind


@pytest.fixture
def own(teacher_folder, tmp_path):
    """A teacher that may be changed."""
    return shutil.copytree(teacher_folder, tmp_path / "teacher")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files(folder):
    """When each file was last written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def spelled(rows, model):
    """Each text and role in the rows, once."""
    spelled = dict(zip(map(tuple, model.backbone.tokenize(TEXTS)), TEXTS, strict=True))
    found = {("document" if row["symmetric"] else "query", tuple(row["query"])) for row in rows}
    for row in rows:
        found |= {("document", tuple(ids)) for ids in [row["positive"], *row["negatives"]]}
    return sorted((role, spelled[ids]) for role, ids in found)


def assert_vectors(teacher, rows, expected):
    queries, documents = teacher.vectors(rows, torch.device("cpu"))
    assert queries.dtype == documents.dtype == torch.float32
    assert queries.double().tolist() == [own[0].tolist() for own in expected]
    wanted = [own[1] for own in expected] + [vector for own in expected for vector in own[2:]]
    assert documents.double().tolist() == [vector.tolist() for vector in wanted]


def refused(rows, model, names, folder, match):
    """Expect one line that names the folder, and that nothing in it is changed."""
    kept = contents(folder)
    with pytest.raises(BlocksError, match=match) as caught:
        taught(rows, model, names, folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert contents(folder) == kept


def test_each_text_gets_the_vector_of_the_teachers_own_package(
    rows, model, teacher_folder, tmp_path, peer
):
    teacher, read = taught(rows, model, [teacher_folder], tmp_path)
    assert_vectors(teacher, read, vectors_of(rows, model, teacher_folder))
    assert_vectors(teacher, read[2:0:-1], vectors_of(rows[2:0:-1], model, teacher_folder))
    numbers = {tuple(row["query"]): row[COLUMN][0] for row in read}
    assert read[0][COLUMN][2] != numbers[tuple(rows[0]["query"])]  # the roles matter
    assert len(list(tmp_path.glob("*.safetensors"))) == BLOCKS


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0)], ids=str)
def test_several_teachers_similarities_are_the_mean_of_their_packages_cosines(
    rows, model, teacher_folder, other_folder, tmp_path, peer, order
):
    both = [teacher_folder, other_folder]
    names = [both[i] for i in order]
    cosines = []
    for name in both:
        vectors = vectors_of(rows, model, name)
        documents = [own[1] for own in vectors] + [one for own in vectors for one in own[2:]]
        cosines.append(torch.stack([own[0] for own in vectors]) @ torch.stack(documents).T)
    assert (cosines[0] - cosines[1]).abs().max() > 0.5
    teacher, read = taught(rows, model, names, tmp_path)
    assert sorted(peer.texts) == sorted(spelled(rows, model) * len(names))
    kept, same = taught(rows, model, names, tmp_path)
    assert peer.loaded == [str(name) for name in names]  # each once, and none to read again
    expected = torch.stack([cosines[i] for i in order]).mean(dim=0)
    for each, its_rows in ((teacher, read), (kept, same)):
        queries, documents = each.vectors(its_rows, torch.device("cpu"))
        found = queries.double() @ documents.double().T
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_each_distinct_text_is_read_once_in_each_role(rows, model, teacher_folder, tmp_path, peer):
    taught(rows, model, [teacher_folder], tmp_path)
    assert sorted(peer.texts) == spelled(rows, model)
    assert peer.loaded == [str(teacher_folder)]


def test_vectors_are_kept_and_read_again(rows, model, teacher_folder, tmp_path, peer):
    _, read = taught(rows, model, [teacher_folder], tmp_path)
    kept = files(tmp_path)
    peer.loaded.clear()
    again, same = taught(rows, model, [teacher_folder], tmp_path)
    assert same == read
    assert_vectors(again, same, vectors_of(rows, model, teacher_folder))
    assert files(tmp_path) == kept
    assert peer.loaded == []
    blocks = [load_file(path)["vectors"] for path in tmp_path.glob("*.safetensors")]
    assert {block.dtype for block in blocks} == {torch.float16}


def test_vectors_kept_in_larger_files_are_read(rows, model, teacher_folder, tmp_path, monkeypatch):
    taught(rows, model, [teacher_folder], tmp_path)
    kept = files(tmp_path)
    monkeypatch.setattr(teachers, "BLOCK", 1)
    again, same = taught(rows, model, [teacher_folder], tmp_path)
    assert_vectors(again, same, vectors_of(rows, model, teacher_folder))
    assert files(tmp_path) == kept


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_work_goes_on_where_it_was_cut_off(
    rows, model, teacher_folder, tmp_path, peer, monkeypatch, kept
):
    taught(rows, model, [teacher_folder], tmp_path / "whole")
    encode = teachers._encode

    def cut_off(*given):
        if len(list((tmp_path / "cut").glob("*.safetensors"))) == kept:
            raise KeyboardInterrupt
        return encode(*given)

    monkeypatch.setattr(teachers, "_encode", cut_off)
    with pytest.raises(KeyboardInterrupt):
        taught(rows, model, [teacher_folder], tmp_path / "cut")
    monkeypatch.setattr(teachers, "_encode", encode)
    peer.texts.clear()
    taught(rows, model, [teacher_folder], tmp_path / "cut")
    assert len(peer.texts) == len(spelled(rows, model)) - 2 * kept
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_vectors_of_other_texts_are_refused(rows, model, teacher_folder, tmp_path):
    taught(rows, model, [teacher_folder], tmp_path)
    others = {
        "order": [rows[1], rows[0], *rows[2:]],
        "text": [rows[0] | {"positive": [*rows[0]["positive"], 9]}, *rows[1:]],
    }
    for other in others.values():
        refused(other, model, [teacher_folder], tmp_path, "other texts")
    refused(rows[:3], model, [teacher_folder], tmp_path, "other texts and count")


def test_where_texts_end_and_how_they_are_read_counts(rows, model, teacher_folder, tmp_path):
    row = rows[0] | {"positive": [5, 6], "negatives": [[7]], "symmetric": False}
    taught([row], model, [teacher_folder], tmp_path)
    for change in ({"positive": [5], "negatives": [[6, 7]]}, {"symmetric": True}):
        refused([row | change], model, [teacher_folder], tmp_path, "other texts")


@pytest.mark.parametrize("change", [{"seed": 1}, {"head": 1}, "prompts"], ids=str)
def test_vectors_of_another_teacher_are_refused(rows, model, tiny_folder, own, tmp_path, change):
    """Its word vectors, the layer on top of them, which is a folder of its own, or its prompts."""
    taught(rows, model, [own], tmp_path / "vectors")
    before = vectors_of(rows, model, own)
    if change == "prompts":
        path = own / "config_sentence_transformers.json"
        settings = json.loads(path.read_text())
        settings["prompts"]["query"] = "other: "
        path.write_text(json.dumps(settings))
    else:
        shutil.rmtree(own)
        make_teacher(own, tiny_folder, **change)
    assert not torch.equal(vectors_of(rows, model, own)[0][0], before[0][0])
    refused(rows, model, [own], tmp_path / "vectors", "other teachers")


def test_vectors_belong_to_all_teachers_in_order(
    rows, model, teacher_folder, other_folder, tmp_path
):
    first, second = teacher_folder, other_folder
    sets = [[first], [second], [first, second], [second, first], [first, second, second]]
    for number, names in enumerate(sets):
        folder = tmp_path / str(number)
        taught(rows, model, names, folder)
        for others in sets:
            if others != names:
                refused(rows, model, others, folder, "other teachers")


def test_a_copy_of_the_teacher_is_the_same_teacher(
    rows, model, teacher_folder, own, tmp_path, peer
):
    taught(rows, model, [teacher_folder], tmp_path / "vectors")
    peer.loaded.clear()
    taught(rows, model, [own], tmp_path / "vectors")
    assert peer.loaded == []


def test_damaged_vectors_are_refused(rows, model, teacher_folder, tmp_path, peer):
    taught(rows, model, [teacher_folder], tmp_path)
    block, manifest = tmp_path / "00000002.safetensors", tmp_path / MANIFEST_FILE
    kept = contents(tmp_path)
    block.write_bytes(kept[block.name][:-2])
    refused(rows, model, [teacher_folder], tmp_path, r"00000002\.safetensors is damaged")
    block.write_bytes(kept[block.name])
    for content in ("{", "[]"):
        manifest.write_text(content)
        refused(rows, model, [teacher_folder], tmp_path, "damaged")
    manifest.write_text("{}")
    refused(rows, model, [teacher_folder], tmp_path, "other")


@pytest.mark.parametrize("before", [0, 1])
def test_a_teacher_that_is_not_there_leaves_nothing(rows, model, teacher_folder, tmp_path, before):
    """A name that was mistyped, be it the second, does not stand in the way of the right one."""
    folder = tmp_path / "vectors"
    for name in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError, match="cannot load") as caught:
            taught(rows, model, [*[teacher_folder] * before, name], folder)
        assert "\n" not in str(caught.value)
        assert f"{name}:" in str(caught.value)
    assert not folder.exists()
    taught(rows, model, [teacher_folder], folder)


def test_texts_are_read_as_they_are_spelled(model, teacher_folder, tmp_path, peer):
    texts = [
        "<eos>",
        "<bos> a <eos><eos>b",
        " two  spaces ",
        "line\nline\r\n\t",
        "漢字 🙂 café",
        "e\u0301",
    ]
    texts += ["it 's , not n't .", "", "\x00", "##ing ▁a Ġb"]
    ids = model.backbone.tokenize(texts)
    rows = [
        {"query": one, "positive": one, "negatives": [], "symmetric": False, "group": ""}
        for one in ids
    ]
    teacher, read = taught(rows, model, [teacher_folder], tmp_path)
    assert sorted(peer.texts) == sorted((role, x) for role in ("query", "document") for x in texts)
    assert_vectors(teacher, read, vectors_of(rows, model, teacher_folder, texts))


def test_rows_keep_their_order_and_columns(rows, model, teacher_folder, tmp_path, monkeypatch):
    """Also where they are looked at part by part."""
    monkeypatch.setattr(teachers, "_BATCH_ROWS", 3)
    table = dataset(rows).select([3, 1, 0, 2])
    teacher = Teacher([str(teacher_folder)], tmp_path)
    read = teacher.read(table, model.backbone)
    assert read.column_names == [*table.column_names, COLUMN]
    assert read.remove_columns(COLUMN).to_list() == table.to_list()
    assert_vectors(teacher, list(read), vectors_of(list(table), model, teacher_folder))
