"""The command that makes near-alike sentences, on the text of Python's own manual."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pydoc_data.topics import topics
from random import Random

import bm25s
import pyarrow
import pyarrow.parquet
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from autoreg_rag.lexical import WORD
from autoreg_trainers.data import load_triplets
from autoreg_trainers.sentence_pairs.copies import LONGEST_PART, lossy, worse
from autoreg_trainers.sentence_pairs.passages import Passage, Sentence, split
from autoreg_trainers.sentence_pairs.rows import pairs
from tests.trainers.running import heard


def manual():
    """Some sentences of the manual, five to a passage; none comes twice, in whatever case."""
    found = re.findall(r"(?<=[.] )[A-Z][^.?!*`|:\[\]]{30,}[a-z]{2}\.", " ".join(topics.values()))
    texts = {" ".join(text.split()).lower(): " ".join(text.split()) for text in found}
    kept = [text for text in texts.values() if 7 <= len(text.split()) <= 42][:300]
    return [kept[start : start + 5] for start in range(0, len(kept) - 4, 5)]


PASSAGES = manual()
SENTENCES = [sentence for passage in PASSAGES for sentence in passage]
BEYOND = len(SENTENCES)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A file of the passages, each called by its number."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl.gz"
    rows = [{"text": " ".join(each), "source": str(i)} for i, each in enumerate(PASSAGES)]
    return write(path, rows)


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run the command in this process, which has loaded all; give status, output and errors."""
    monkeypatch.chdir(tmp_path)
    return partial(heard, capsys, "sentences")


@pytest.fixture
def made(here, tmp_path):
    """Run the command with these options; give its rows and its figures."""

    def made(*options):
        status, output, errors = here(*options, "--out", "made.jsonl.gz", "--json")
        assert (status, errors) == (0, "")
        rows = read(tmp_path / "made.jsonl.gz")
        (tmp_path / "made.jsonl.gz").unlink()
        return rows, json.loads(output)

    return made


def command(*options, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "autoreg_trainers.sentences", *map(str, options)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def write(path, rows):
    lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def read(path):
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def taken_apart(row):
    """A row's sentence, its copy, the sentence that is a negative, and the worse copy."""
    known = set(SENTENCES)
    (sentence,) = known & {row["query"], row["pos"]}
    (copy,) = {row["query"], row["pos"]} - {sentence}
    (real,) = known & set(row["neg"])
    (changed,) = set(row["neg"]) - {real}
    return sentence, copy, real, changed


def is_part(part, words):
    return any(words[i : i + len(part)] == part for i in range(len(words)))


def is_thinned(part, words):
    rest = iter(words)
    return all(word in rest for word in part)


def test_training_reads_every_row_as_two_alike_sentences_with_two_negatives(
    here, tmp_path, texts, tiny_model
):
    assert here(texts, "--out", "new/rows.jsonl.gz", "--per-text", 9)[0] == 0
    path = tmp_path / "new" / "rows.jsonl.gz"
    found = load_triplets([str(path)], tiny_model.backbone, tiny_model.config, seed=0, strict=True)
    assert len(found) == len(read(path)) > 0.95 * len(SENTENCES)
    assert all(found["symmetric"])
    assert {len(negatives) for negatives in found["negatives"]} == {2}
    for row in read(path):
        assert list(row) == ["query", "pos", "neg", "kind", "source"]
        assert row["kind"] == "paraphrase"
        assert taken_apart(row)[0] in PASSAGES[int(row["source"])]


def test_a_copy_has_lost_or_moved_some_words_and_a_negative_is_neither_text(made, texts):
    # Of several seeds, so that shares are of a thousand rows.
    rows = [row for seed in range(5) for row in made(texts, "--per-text", 9, "--seed", seed)[0]]
    ways = Counter()
    for row in rows:
        sentence, copy, real, changed = taken_apart(row)
        words, copied, others = sentence.split(), copy.split(), changed.split()
        assert copy != sentence
        assert Counter(copied) <= Counter(words)
        assert len(copied) > 0.55 * len(words)
        known = {text.lower() for text in (row["query"], row["pos"])}
        assert known.isdisjoint(text.lower() for text in row["neg"])
        passage = " ".join(PASSAGES[int(row["source"])]).split()
        assert set(others) <= set(passage)
        assert len(others) == len(words) or is_part(others, words)
        ways["first"] += row["query"] == sentence
        ways["real first"] += row["neg"][0] == real
        ways["replaced"] += len(others) == len(words)
        ways["moved only"] += sorted(copied) == sorted(words)
        ways["a part"] += is_part(copied, words)
        ways["thinned"] += is_thinned(copied, words) and not is_part(copied, words)
    shares = {way: round(count / len(rows), 2) for way, count in ways.items()}
    for way, share in (
        ("first", 0.5),
        ("real first", 0.5),
        ("replaced", 0.65),
        ("moved only", 0.3),
        ("a part", 0.27),
        ("thinned", 0.22),
    ):
        assert abs(shares[way] - share) < 0.08, (way, shares)


def test_the_other_sentence_is_the_one_that_bm25_ranks_first(made, texts):
    def tokens(texts):
        return bm25s.tokenize(
            texts,
            token_pattern=WORD,
            stopwords="english_plus",
            stemmer=Stemmer.Stemmer("english"),
            return_ids=False,
            show_progress=False,
        )

    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index(tokens(SENTENCES), show_progress=False)
    rows, _ = made(texts, "--per-text", 9)
    seen = set()
    for row in rows:
        sentence, _, real, _ = taken_apart(row)
        seen.add(sentence)
        scores = index.get_scores(tokens([sentence])[0])
        scores[SENTENCES.index(sentence)] = 0
        assert scores[SENTENCES.index(real)] == scores.max() > 0
    # A sentence without a row is one that shares no word with any other.
    for lone in set(SENTENCES) - seen:
        scores = index.get_scores(tokens([lone])[0])
        scores[SENTENCES.index(lone)] = 0
        assert scores.max() == 0


@pytest.mark.parametrize("per_text", [1, 2, 4])
def test_so_many_of_a_passage_and_so_many_rows(made, texts, per_text):
    rows, figures = made(texts, "--per-text", per_text)
    assert figures["texts"] == len(PASSAGES)
    assert figures["sentences"] == per_text * len(PASSAGES)
    assert figures["rows"] == len(rows) > 0.9 * figures["sentences"]
    firsts = [taken_apart(row)[0] for row in rows]
    assert len(set(firsts)) == len(firsts)
    assert max(Counter(row["source"] for row in rows).values()) == per_text
    # Which of a passage's sentences they are is drawn.
    places = {PASSAGES[int(r["source"])].index(s) for r, s in zip(rows, firsts, strict=True)}
    assert places == set(range(5))

    few, figures = made(texts, "--per-text", per_text, "--rows", 20)
    assert figures["rows"] == len(few) <= 20
    assert figures["sentences"] == per_text * len(PASSAGES)
    assert len({row["source"] for row in few}) > 10  # of all the file, not of its beginning


def test_two_sentences_a_passage_and_all_rows_by_default(made, texts):
    assert made(texts) == made(texts, "--per-text", 2, "--rows", BEYOND, "--seed", 0)


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(here, tmp_path, texts):
    assert here(texts, "--out", "one.jsonl.gz", "--seed", 3)[0] == 0
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "3")
    options = [texts, "--out", "three.jsonl.gz", "--seed", 3]
    result = command(*options, cwd=tmp_path, PYTHONHASHSEED="7", **threads)
    assert (result.returncode, result.stderr) == (0, "")
    one = (tmp_path / "one.jsonl.gz").read_bytes()
    assert (tmp_path / "three.jsonl.gz").read_bytes() == one
    assert one[4:8] == bytes(4)  # no time in gzip's header
    assert result.stdout.splitlines() == [
        f"rows:      {len(gzip.decompress(one).splitlines())} in three.jsonl.gz",
        f"sentences: {2 * len(PASSAGES)} taken from {len(PASSAGES)} texts",
        "bad rows:  0",
    ]
    assert here(texts, "--out", "other.jsonl.gz", "--seed", 4)[0] == 0
    assert (tmp_path / "other.jsonl.gz").read_bytes() != one
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"one.jsonl.gz", "three.jsonl.gz", "other.jsonl.gz"}


def counted(number, word):
    """A sentence of so many words."""
    return " ".join(["Whales", *[f"{word}{i}" for i in range(number - 2)], "swim."])


def test_sentences_too_short_too_long_or_unfinished_are_not_taken(made, tmp_path):
    passages = [counted(n, f"w{n}x") for n in (6, 7, 42, 43)] + [counted(20, "x")[:-1]]
    write(tmp_path / "a.jsonl", [{"text": text} for text in passages])
    rows, figures = made("a.jsonl", "--per-text", 9)
    assert figures == {"rows": 2, "texts": 5, "sentences": 2, "bad": 0}
    texts = {text for row in rows for text in (row["query"], row["pos"], *row["neg"])}
    assert texts & set(passages) == set(passages[1:3])


def test_a_sentence_that_comes_again_is_taken_once(made, tmp_path):
    first, second = counted(9, "one"), counted(9, "two")
    again = first.upper().replace("ONE3", "ONE3,")
    write(tmp_path / "a.jsonl", [{"text": f"{first} {again}"}, {"text": f"{second} {first}"}])
    for seed in range(4):
        assert made("a.jsonl", "--per-text", 9, "--seed", seed)[1]["sentences"] == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "Go." "Why?" she asked. (So.) End.', 4),
        ("Mr. Smith met Dr. J. Who in the U.S. Senate.", 1),
        ("It cost 3.5 dollars, e.g. much. it did.", 1),
        ("A long\nline was\n broken.  Twice.", ["A long line was broken.", "Twice."]),
        ("A heading\n\nA sentence.\n \nAnother.", ["A heading", "A sentence.", "Another."]),
        ("“Well.” ‘Yes.’ No.", ["“Well.”", "‘Yes.’", "No."]),
    ],
)
def test_where_sentences_end(text, found):
    parts = list(split(text))
    assert " ".join(parts) == " ".join(text.split())
    assert len(parts) == found if isinstance(found, int) else parts == found


@given(
    st.lists(st.sampled_from(["a", "A", "b", "c."]), min_size=7, max_size=42),
    st.integers(min_value=0),
)
def test_a_lossy_copy_is_always_another_and_longer_than_any_part(words, seed):
    random = Random(seed)
    copy, changed = lossy(words, random), worse(words, ["x"], random)
    assert copy != words
    assert Counter(copy) <= Counter(words)
    assert len(copy) > LONGEST_PART * len(words)
    if len(changed) < len(words):
        assert is_part(changed, words)
        assert 3 <= len(changed) <= LONGEST_PART * len(words)
    else:
        assert all(new in (old, "x") for new, old in zip(changed, words, strict=True))


def test_a_sentence_that_is_anothers_copy_is_no_negative_of_it():
    shorter, longer, third = (
        "Whales of the north sea swim far.",
        "Whales of the north sea swim far. away.",
        "The north wind blows over the sea.",
    )
    # Of few words, so that a worse copy comes out as the lossy one, or as the other sentence.
    sung, other = "La la la la la na la na.", "La la la la la na la ma."
    sea, song = Passage(f"{longer} {third}", "sea"), Passage(f"{sung} {other}", "song")
    found = [Sentence(text, sea) for text in (shorter, longer, third)]
    found += [Sentence(text, song) for text in (sung, other)]
    equal = 0
    for seed in range(1000):
        rows = list(pairs(found, len(found), Random(seed)))
        assert len(rows) == len(found)
        for row in rows:
            both = {row["query"].lower(), row["pos"].lower()}
            assert both.isdisjoint(text.lower() for text in row["neg"])
            assert len({text.lower() for text in row["neg"]}) == 2
            equal += both == {shorter.lower(), longer.lower()}
    assert equal > 10


def test_files_of_each_kind_give_the_same_rows(made, tmp_path):
    rows = [{"text": " ".join(passage)} for passage in PASSAGES]
    titled = [{"title": "Whales swim in the sea, and sing there.", **row} for row in rows]
    (tmp_path / "d").mkdir()
    write(tmp_path / "plain.jsonl", rows)
    write(tmp_path / "d" / "packed.jsonl.gz", titled)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(titled), tmp_path / "table.parquet")
    (tmp_path / "lines.txt").write_text("\n".join(row["text"] for row in rows))
    names = {"plain.jsonl": "plain", "d": "packed", "table.parquet": "table", "lines.txt": "lines"}
    expected, figures = made("plain.jsonl")
    assert figures["texts"] == len(PASSAGES)
    for path, label in names.items():
        assert made(path) == ([{**row, "source": label} for row in expected], figures)


def test_bad_rows_are_named_and_counted_and_other_rows_left_out(here, tmp_path, texts, caplog):
    write(
        tmp_path / "a.jsonl",
        [
            {"text": PASSAGES[0][0], "source": "x"},
            {"query": "q", "pos": PASSAGES[1][0]},
            {"text": 3},
            {"text": f"{PASSAGES[2][0]} \ud800"},
        ],
    )
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{broken\n["text"]\n')
    status, output, _ = here("a.jsonl", texts, "--out", "out.jsonl.gz", "--json")
    assert status == 0
    assert [f"a.jsonl:{n}: " in caplog.text for n in range(1, 6)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert "a.jsonl: 4 of 6 rows are bad, left out" in caplog.text
    figures = json.loads(output)
    assert (figures["texts"], figures["bad"]) == (1 + len(PASSAGES), 4)


def test_what_the_user_can_mend_is_one_line_and_leaves_nothing(here, tmp_path, texts):
    write(tmp_path / "short.jsonl", [{"text": "Too short. So is this."}])
    write(tmp_path / "lone.jsonl", [{"text": counted(9, "one")}])
    write(tmp_path / "pairs.jsonl", [{"query": "q", "pos": PASSAGES[0][0]}])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"text": "q"' * 99)[:-20])
    (tmp_path / "there.jsonl.gz").write_bytes(b"kept")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for options, message in [
        (["nowhere.jsonl"], "there is no file or folder nowhere.jsonl"),
        (["folder"], "the folder folder holds no file to read"),
        (["pairs.jsonl"], "pairs.jsonl: none of its 1 rows is a passage"),
        (["empty.jsonl"], "empty.jsonl: none of its 0 rows is a passage"),
        ([texts, "pairs.jsonl"], "pairs.jsonl: none of its 1 rows is a passage"),
        (["torn.jsonl.gz"], "torn.jsonl.gz"),
        (["short.jsonl"], "nothing in short.jsonl gives a row"),
        (["lone.jsonl", "short.jsonl"], "nothing in lone.jsonl, short.jsonl gives a row"),
        ([texts, "--out", "there.jsonl.gz"], "--out there.jsonl.gz is there already"),
        ([texts, "--out", "folder"], "--out folder is there already"),
        ([texts, "--out", "out.jsonl"], "--out out.jsonl must end in .jsonl.gz"),
        ([texts, "--out", "empty.jsonl/o.jsonl.gz"], "empty.jsonl/o.jsonl.gz cannot be written"),
        ([texts, "--rows", "0"], "--rows is 0; it must be 1 or more"),
        ([texts, "--per-text", "0"], "--per-text is 0; it must be 1 or more"),
        ([texts, "--seed", "-1"], "--seed is -1; it must be 0 or more"),
    ]:
        status, output, errors = here("--out", "new/out.jsonl.gz", *options)
        assert (status, output) == (1, "")
        (line,) = errors.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.jsonl.gz").read_bytes() == b"kept"
    assert here("--out", "out.jsonl.gz")[0] == 2
    assert here(texts)[0] == 2


def test_help_is_quick_to_load():
    code = (
        "import sys, autoreg_trainers.sentences\n"
        "print([name for name in ('torch', 'bm25s', 'datasets') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
