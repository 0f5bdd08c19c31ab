from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_rag.corpus import CorpusFile, EmptyCorpusError, file_digest, find_files
from autoreg_rag.errors import CorpusError, ReadError

needs_links = pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")


class Findings:
    """What a walk found, skipped and failed at."""

    def __init__(self, root: Path, **options) -> None:
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, ReadError] = {}
        self.error: CorpusError | None = None
        files = find_files(
            root,
            "corpus",
            on_skip=self.skipped.__setitem__,
            on_error=self.failed.__setitem__,
            **options,
        )
        self.files: list[CorpusFile] = []
        try:
            self.files.extend(files)
        except CorpusError as error:
            self.error = error

    @property
    def sources(self) -> list[str]:
        return [file.source for file in self.files]


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return root


def test_files_are_found_with_their_sources_paths_and_sizes(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "deep/er/b.md")
    (tmp_path / "a.txt").write_text("four and more")
    assert list(find_files(tmp_path, "corpus")) == [
        CorpusFile(tmp_path / "a.txt", "corpus/a.txt", 13),
        CorpusFile(tmp_path / "deep" / "er" / "b.md", "corpus/deep/er/b.md", 4),
    ]


PATHS = st.lists(
    st.text("ab- .Z", min_size=1, max_size=2).map("x{}y".format), min_size=1, max_size=3
).map(lambda parts: "/".join(parts) + ".txt")


@settings(max_examples=40)
@given(names=st.sets(PATHS, min_size=1, max_size=10))
def test_sources_come_sorted_as_strings(tmp_path_factory, names: set[str]) -> None:
    root = fill(tmp_path_factory.mktemp("corpus"), *names)
    assert Findings(root).sources == sorted(f"corpus/{name}" for name in names)


def test_unknown_suffixes_are_skipped_and_named(tmp_path: Path) -> None:
    found = Findings(fill(tmp_path, "a.txt", "picture.png", "noname"))
    assert found.sources == ["corpus/a.txt"]
    assert set(found.skipped) == {"corpus/picture.png", "corpus/noname"}


@pytest.mark.parametrize(
    "name",
    ["a.TXT", "a.markdown", "a.jsonl.gz", "a.csv.gz", "a.ndjson", "a.PDF", "a.rs", "a.yml"],
)
def test_known_suffixes_are_found_in_any_case(tmp_path: Path, name: str) -> None:
    assert Findings(fill(tmp_path, name)).sources == [f"corpus/{name}"]


@pytest.mark.parametrize("name", ["a.pdf.gz", "a.gz", "a.tar.gz", "txt"])
def test_packed_files_other_than_streamed_ones_are_skipped(tmp_path: Path, name: str) -> None:
    assert set(Findings(fill(tmp_path, name)).skipped) == {f"corpus/{name}"}


def test_a_glob_takes_files_of_any_suffix_and_only_those(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "b.xyz", "deep/c.xyz")
    assert Findings(tmp_path, globs=["*.xyz"]).sources == ["corpus/b.xyz", "corpus/deep/c.xyz"]
    assert Findings(tmp_path, globs=["/*.xyz"]).sources == ["corpus/b.xyz"]
    assert Findings(tmp_path, globs=["deep/"]).sources == ["corpus/deep/c.xyz"]
    assert Findings(tmp_path, globs=["*", "!*.txt"]).sources == [
        "corpus/b.xyz",
        "corpus/deep/c.xyz",
    ]


def test_hidden_files_and_junk_are_left_out_unless_taken_in_again(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", ".b.txt", ".git/c.txt", "__pycache__/d.txt", "x/node_modules/e.txt")
    fill(tmp_path, ".github/f.txt", "~$g.docx")
    assert Findings(tmp_path).sources == ["corpus/a.txt"]
    assert Findings(tmp_path).skipped == {}
    again = Findings(tmp_path, excludes=["!.github"])
    assert again.sources == ["corpus/.github/f.txt", "corpus/a.txt"]


def test_excludes_match_paths_below_the_root(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "drafts/b.txt", "deep/drafts/c.txt", "deep/d.md")
    assert Findings(tmp_path, excludes=["drafts/", "*.md"]).sources == ["corpus/a.txt"]
    assert Findings(tmp_path, excludes=["/drafts"]).sources == [
        "corpus/a.txt",
        "corpus/deep/d.md",
        "corpus/deep/drafts/c.txt",
    ]


def test_a_malformed_pattern_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="pattern is malformed"):
        find_files(tmp_path, "corpus", excludes=["!"])


def test_a_single_file_is_taken_whatever_its_name_is(tmp_path: Path) -> None:
    fill(tmp_path, ".odd")
    assert Findings(tmp_path / ".odd").sources == ["corpus/.odd"]


def test_a_missing_corpus_is_refused_at_once(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt")
    for name, reason in (("nowhere", "No such file"), ("a.txt/b", "Not a directory")):
        with pytest.raises(EmptyCorpusError, match=f"{name}: {reason}"):
            find_files(tmp_path / name, "corpus")


@needs_links
def test_a_corpus_that_cannot_be_looked_at_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CorpusError, match="cannot read the corpus") as caught:
        find_files(tmp_path / "loop", "corpus")
    assert not isinstance(caught.value, EmptyCorpusError)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    error = Findings(tmp_path).error
    assert isinstance(error, EmptyCorpusError)
    assert "there are no files in" in str(error)


def test_a_folder_of_unknown_formats_is_an_error_that_counts_them(tmp_path: Path) -> None:
    found = Findings(fill(tmp_path, "a.png", "deep/b.png"))
    assert isinstance(found.error, EmptyCorpusError)
    assert "none of the 2 files" in str(found.error)


def test_globs_that_match_nothing_are_an_error(tmp_path: Path) -> None:
    error = Findings(fill(tmp_path, "a.txt"), globs=["*.md"]).error
    assert isinstance(error, EmptyCorpusError)
    assert "no file in" in str(error)


@needs_links
def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", "a.txt", "folder/b.txt")
    root = fill(tmp_path / "root", "c.txt")
    (root / "link.txt").symlink_to(outside / "a.txt")
    (root / "linked").symlink_to(outside / "folder", target_is_directory=True)
    assert Findings(root).sources == ["corpus/c.txt", "corpus/link.txt", "corpus/linked/b.txt"]


@needs_links
def test_a_loop_of_links_is_walked_once_and_reported(tmp_path: Path) -> None:
    fill(tmp_path, "a/x.txt", "b/y.txt")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "across").symlink_to(tmp_path / "a", target_is_directory=True)
    found = Findings(tmp_path)
    assert found.sources == ["corpus/a/x.txt", "corpus/b/y.txt"]
    assert set(found.skipped) == {"corpus/a/up/", "corpus/b/across/"}
    assert not found.failed


@needs_links
def test_links_that_lead_nowhere_are_failures_that_say_so(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    found = Findings(tmp_path)
    assert found.sources == ["corpus/a.txt"]
    assert "No such file" in str(found.failed["corpus/gone.txt"])
    assert "symbolic links" in str(found.failed["corpus/self.txt"])


@needs_links
@pytest.mark.parametrize("globs", [[], ["*.txt"]])
def test_a_link_that_leads_nowhere_may_have_led_to_a_folder(tmp_path: Path, globs) -> None:
    fill(tmp_path, "a.txt")
    (tmp_path / "folder").symlink_to(tmp_path / "nothing", target_is_directory=True)
    (tmp_path / "venv").symlink_to(tmp_path / "nothing", target_is_directory=True)
    found = Findings(tmp_path, globs=globs)
    assert found.sources == ["corpus/a.txt"]
    assert str(found.failed["corpus/folder"]) == "corpus/folder: No such file or directory"
    assert len(found.failed) == 1


@needs_links
def test_a_folder_where_every_file_fails_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    error = Findings(tmp_path).error
    assert not isinstance(error, EmptyCorpusError)
    assert str(error).endswith("can be read; the first: corpus/gone.txt: No such file or directory")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipes_and_sockets_are_never_opened(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
        found = Findings(tmp_path)
        by_glob = Findings(tmp_path, globs=["*"])
    assert found.sources == by_glob.sources == ["corpus/a.txt"]
    assert set(found.skipped) == {"corpus/pipe.txt", "corpus/socket.txt"}
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        find_files(tmp_path / "pipe.txt", "corpus")


def test_a_folder_without_rights_is_a_failure_and_the_rest_is_found(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "closed/b.txt")
    (tmp_path / "closed").chmod(0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("this user may read all, as root does")
    try:
        found = Findings(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert found.sources == ["corpus/a.txt"]
    assert "Permission denied" in str(found.failed["corpus/closed/"])


def test_a_folder_that_cannot_be_listed_is_a_failure_and_the_rest_is_found(
    tmp_path: Path, monkeypatch
) -> None:
    fill(tmp_path, "a.txt", "closed/b.txt")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = Findings(tmp_path)
    assert found.sources == ["corpus/a.txt"]
    assert str(found.failed["corpus/closed/"]) == "corpus/closed/: Permission denied"


@pytest.mark.skipif(os.name != "posix", reason="names of bytes exist on POSIX only")
def test_names_that_are_not_unicode_give_distinct_valid_sources(tmp_path: Path) -> None:
    for name in (b"a\xff.txt", b"a\xfe.txt"):
        try:
            (tmp_path / os.fsdecode(name)).write_text("text")
        except OSError:
            pytest.skip("this file system takes Unicode names only")
    found = Findings(tmp_path)
    assert len({source.encode() for source in found.sources}) == 2
    assert all(file.path.read_text() == "text" for file in found.files)


def test_a_tree_deeper_than_the_recursion_limit_is_walked(tmp_path: Path, monkeypatch) -> None:
    depth = sys.getrecursionlimit() + 100
    monkeypatch.chdir(tmp_path)
    for _ in range(depth):
        Path("d").mkdir()
        os.chdir("d")
    Path("a.txt").write_text("text")
    try:
        assert Findings(tmp_path).sources == [f"corpus/{'d/' * depth}a.txt"]
    finally:  # too deep for pytest to clean up
        Path("a.txt").unlink()
        for _ in range(depth):
            os.chdir("..")
            Path("d").rmdir()


def test_what_is_skipped_or_failed_is_logged_by_default(tmp_path: Path, caplog) -> None:
    fill(tmp_path, "a.txt", "b.png")
    with caplog.at_level(logging.INFO):
        assert len(list(find_files(tmp_path, "corpus"))) == 1
    assert "corpus/b.png skipped: not a known format" in caplog.text


def test_the_digest_depends_on_bytes_and_settings_only(make_file) -> None:
    one = make_file("a.txt", "x" * 3_000_000)
    same = make_file("b.txt", "x" * 3_000_000)
    other = make_file("c.txt", "x" * 2_999_999 + "y")
    assert file_digest(one, "s") == file_digest(same, "s")
    assert len({file_digest(one, "s"), file_digest(one, "t"), file_digest(other, "s")}) == 3
    assert len(bytes.fromhex(file_digest(one, "s"))) == 32
    assert file_digest(make_file("d", "ab"), "c") != file_digest(make_file("e", "a"), "bc")


def test_the_digest_of_a_file_that_is_gone_is_a_read_error(make_file) -> None:
    file = make_file("a.txt", "text")
    file.path.unlink()
    with pytest.raises(ReadError, match=r"corpus/a.txt: No such file"):
        file_digest(file, "")


def test_a_range_that_runs_backwards_is_a_malformed_pattern(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt")
    with pytest.raises(CorpusError, match="malformed"):
        find_files(tmp_path, "corpus", globs=["[z-a].txt"])


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_an_error_is_one_line_whatever_a_file_is_called(tmp_path: Path, caplog) -> None:
    root = tmp_path / "two\nlines"
    root.mkdir()
    with pytest.raises(EmptyCorpusError, match=r"two\\nlines; hidden") as caught:
        list(find_files(root, "corpus"))
    (root / "go\x1b[31mne\u2028.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(CorpusError, match=r"corpus/go\\x1b\[31mne\\u2028.txt: No such") as caught:
        list(find_files(root, "corpus"))
    assert str(caught.value).isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_a_corpus_that_is_an_index_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is an index, not a corpus") as caught:
        find_files(fill(tmp_path, "a.txt"), "corpus", is_index=lambda _: True)
    assert not isinstance(caught.value, EmptyCorpusError)


def test_a_folder_that_is_an_index_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "mine/b.txt", "mine/deep/c.txt")
    findings = Findings(tmp_path, is_index=lambda folder: folder.name == "mine")
    assert findings.sources == ["corpus/a.txt"]
    assert findings.skipped == {"corpus/mine/": "an index"}
