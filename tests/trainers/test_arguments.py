"""Settings from flags and YAML: in this process, and as a user runs a command."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from autoreg_trainers.arguments import SettingsError, parse, save_effective


def about(text):
    return {"help": text}


@dataclass
class Settings:
    sources: list[Any] = field(default_factory=list, metadata=about("Where rows come from."))
    tasks: dict[str, float] = field(
        default_factory=lambda: {"answer": 0.5}, metadata=about("Weights.")
    )
    model: str | None = field(default=None, metadata=about("A model."))
    out: Path = field(default=Path("run"), metadata=about("Where to."))
    rate: float = field(default=1e-4, metadata=about("How fast, 5 % or more."))
    batch_size: int = field(default=32, metadata=about("Rows of a step."))
    limit: int | None = field(default=None, metadata=about("The most rows."))
    compile: Literal["auto", "yes", "no"] = field(default="auto", metadata=about("Compile."))
    pooling: Literal["mean", "last"] | None = field(default=None, metadata=about("Pool."))
    shuffle: bool = field(default=True, metadata=about("Mix the rows."))
    strict: bool = field(default=False, metadata=about("Refuse bad rows."))
    sizes: list[int] = field(default_factory=lambda: [1, 2], metadata=about("Sizes."))


@dataclass
class Needy:
    model: str = field(metadata=about("A model."))


def parsed(*argv):
    return parse(Settings, "Do it.", list(argv))


@pytest.fixture
def config(tmp_path):
    """Writes a file of settings and returns the flags that name it."""

    def write(text):
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return ["--config", str(tmp_path / "run.yaml")]

    return write


def test_nothing_given_is_the_defaults():
    assert parsed() == Settings()


def test_flags_of_all_types_with_dashes_and_underscores():
    settings = parsed(
        *("--sources", "a.jsonl.gz", "b.jsonl.gz", "--sources", "c"),
        *("--tasks", "answer=0.5", "copy=2e-1", "--model", "m", "--out", "o", "--rate", "1e-5"),
        *("--batch-size", "8", "--limit", "5", "--compile", "no", "--pooling", "last"),
        *("--no-shuffle", "--strict", "--sizes", "3", "4"),
    )
    assert settings == Settings(
        sources=["a.jsonl.gz", "b.jsonl.gz", "c"],
        tasks={"answer": 0.5, "copy": 0.2},
        model="m",
        out=Path("o"),
        rate=1e-5,
        batch_size=8,
        limit=5,
        compile="no",
        pooling="last",
        shuffle=False,
        strict=True,
        sizes=[3, 4],
    )
    assert parsed("--batch_size", "8") == parsed("--batch-size=8") == Settings(batch_size=8)
    assert parsed("--strict", "false", "--shuffle", "yes") == Settings()


def test_a_file_gives_values_of_all_types(config):
    text = """
        sources:
          - a.jsonl
          - {path: b.jsonl, weight: 2, tasks: [answer]}
        tasks: {answer: 1, copy: 1e-1}
        rate: 1e-5
        batch-size: 8
        limit: ~
        compile: no
        pooling: null
        shuffle: false
        model: "012"
    """
    assert parsed(*config(text)) == Settings(
        sources=["a.jsonl", {"path": "b.jsonl", "weight": 2, "tasks": ["answer"]}],
        tasks={"answer": 1.0, "copy": 0.1},
        rate=1e-5,
        batch_size=8,
        compile="no",
        shuffle=False,
        model="012",
    )
    assert parsed(*config("")) == Settings()


def test_numbers_become_what_the_setting_is(config):
    settings = parsed(*config("rate: 1\ntasks: {a: 2}"))
    assert (type(settings.rate), type(settings.tasks["a"])) == (float, float)


def test_flags_win_over_the_file(config):
    flags = config("rate: 0.5\ntasks: {a: 1, b: 2}\nsources: [x, y]\nstrict: true\nlimit: 7")
    settings = parsed(
        *flags, *["--rate", "0.25", "--tasks", "c=3", "--sources", "z", "--strict", "no"]
    )
    assert settings == Settings(rate=0.25, tasks={"c": 3.0}, sources=["z"], strict=False, limit=7)
    assert parsed("--rate", "0.0001", *flags).rate == 1e-4  # the default, but said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nbach_size: 3", "line 1: there is no setting 'seed'"),
        ("\nbach_size: 3", "line 2: there is no setting 'bach_size'; did you mean batch_size?"),
        ("batch-size: 1\nbatch_size: 2", "line 2: batch_size comes a second time"),
        ("batch_size: 1.5", "line 1: batch_size: is 1.5; it must be a whole number"),
        ("batch_size: true", "must be a whole number"),
        ("batch_size:", "is None; it must be a whole number"),
        ("rate: fast", "rate: is 'fast'; it must be a number"),
        ("rate: .nan", "must be a number"),
        ("rate: [1]", "must be a number"),
        ("compile: maybe", "is 'maybe'; it must be one of auto, yes, no"),
        ("pooling: max", "must be one of mean, last"),
        ("strict: 3", "must be true or false"),
        ("model: 7", "must be text"),
        ("sources: a", "must be a list"),
        ("sizes: [1, a]", "is 'a'; it must be a whole number"),
        ("tasks: [a]", "must be a mapping"),
        ("tasks: {a: b}", "tasks: a is 'b'; it must be a number"),
        ("- rate", "it must hold settings"),
        ("rate: [1", "line 1"),
        ("rate: !!python/object/apply:os.getcwd []", "line 1"),
        ("rate: 1\n\x00", "line"),
        ("rate: 1\nbatch_size: !!int few", "line 2"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(config, text, says):
    flags = config(text)
    with pytest.raises(SettingsError) as caught:
        parsed(*flags)
    message = str(caught.value)
    assert says in message
    assert flags[1] in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"model: \xff")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "bytes.yaml"):
        with pytest.raises(SettingsError, match="cannot be read"):
            parsed("--config", str(path))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--bach-size 3", "did you mean --batch-size?"),
        ("--batch 3", "--batch"),
        ("--batch-size three", "three"),
        ("--rate nan", "--rate"),
        ("--compile maybe", "'auto', 'yes', 'no'"),
        ("--tasks answer", "NAME=VALUE"),
        ("--tasks answer=much", "'much'; it must be a number"),
        ("--sizes 1 b", "'b'; it must be a whole number"),
        ("stray", "stray"),
    ],
)
def test_wrong_flags_end_with_status_2(capsys, flags, says):
    with pytest.raises(SystemExit) as caught:
        parsed(*flags.split())
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_what_has_no_default_is_needed(capsys, config):
    with pytest.raises(SystemExit) as caught:
        parse(Needy, "", [])
    assert caught.value.code == 2
    assert "--model is needed" in capsys.readouterr().err
    assert parse(Needy, "", config("model: m")) == parse(Needy, "", ["--model", "m"]) == Needy("m")


def test_saved_settings_are_read_back(tmp_path):
    settings = Settings(
        sources=["a", {"path": "b", "weight": 0.1}],
        tasks={"answer": 1e-7},
        rate=3e-5,
        out=tmp_path / "größer",
        limit=3,
        compile="no",
        strict=True,
    )
    save_effective(settings, tmp_path / "saved.yaml")
    assert parsed("--config", str(tmp_path / "saved.yaml")) == settings
    # Other readers of YAML, which follow its version 1.1, see the same.
    read = yaml.safe_load((tmp_path / "saved.yaml").read_text(encoding="utf-8"))
    assert list(read) == list(Settings.__dataclass_fields__)
    assert (read["compile"], read["rate"], read["out"]) == ("no", 3e-5, str(settings.out))


awkward = st.sampled_from(["no", "1e5", "012", "1:30", "~", "null", "", "1_0", "0x1", "#", ".5"])


@example(text="\x85", number=0.0)
@example(text="a\u2028b\nc", number=0.0)
@given(
    text=awkward | st.text(st.characters(exclude_categories=["Cs"])), number=st.floats(-1e9, 1e9)
)
def test_any_text_and_number_is_read_back(tmp_path_factory, text, number):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    settings = Settings(model=text, rate=number, tasks={text: number}, sources=[text, {text: [1]}])
    save_effective(settings, path)
    assert parsed("--config", str(path)) == settings


COMMAND = """
import logging, sys
from dataclasses import dataclass, field
from autoreg_trainers.arguments import run
from autoreg_rag.errors import AutoRegError

@dataclass
class Settings:
    batch_size: int = field(default=32, metadata={"help": "Rows of a step, 5 % more."})
    tasks: dict[str, float] = field(
        default_factory=lambda: {"a": 0.5, "b": 2.0}, metadata={"help": "Weights."}
    )
    strict: bool = field(default=False, metadata={"help": "Refuse bad rows."})
    model: str | None = field(default=None, metadata={"help": "A model."})

def command(settings):
    logging.getLogger("autoreg_trainers.loop").info("step 3 of %d", settings.batch_size)
    logging.getLogger("autoreg_rag.model").warning("careful")
    logging.getLogger("transformers.trainer").warning("take heed")
    logging.getLogger("elsewhere").info("chatter")
    if settings.model == "bad":
        raise AutoRegError("there is no model bad")
    if settings.model == "large":
        raise MemoryError
    if settings.model == "interrupt":
        print("ready", flush=True)
        import time
        while True:
            time.sleep(60)
    if settings.model == "bug":
        raise ZeroDivisionError

run(command, Settings, "Train it well.")
"""


def started(tmp_path, *flags, **env):
    (tmp_path / "command.py").write_text(COMMAND)
    return subprocess.Popen(
        [sys.executable, "-m", "command", *flags],
        cwd=tmp_path,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(tmp_path, *flags, **env):
    process = started(tmp_path, *flags, **env)
    output, error = process.communicate()
    return process.returncode, output, error


def test_help_explains_each_option_and_its_default(tmp_path):
    status, output, error = finished(tmp_path, "--help")
    assert (status, error) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "usage: python -m command [--config FILE.yaml] [options]"
    assert "Train it well." in lines
    for words in (
        ["--batch-size N", "Rows of a step, 5 % more. [32]"],
        ["--tasks NAME=VALUE", "a=0.5 b=2.0"],
        ["--strict", "Refuse bad rows. [no]"],
        ["--model TEXT", "A model."],
        ["--config FILE"],
    ):
        for word in words:
            assert word in " ".join(output.split())
    assert "batch_size" not in output
    assert "None" not in output


LOADED = """
import json, runpy, sys

heavy = "accelerate datasets numpy peft pyarrow torch tqdm transformers".split()
ends = []
for name in ("ic", "cda", "contrastive", "reference"):
    for options in ("--help", "--bach-size 3", "--sources rows.jsonl --batch-size 0", ""):
        sys.argv[1:] = options.split()
        try:
            runpy.run_module(f"autoreg_trainers.{name}", run_name="__main__")
        except SystemExit as end:
            ends.append((end.code, [each for each in heavy if each in sys.modules]))
print(json.dumps(ends))
"""


def test_help_and_wrong_options_load_nothing_that_takes_seconds():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    ends = json.loads(done.stdout.splitlines()[-1])
    assert ends == [[status, []] for status in (0, 2, 1, 1)] * 4


def test_progress_and_warnings_go_to_standard_error(tmp_path):
    status, output, error = finished(tmp_path, "--batch-size", "7")
    assert (status, output) == (0, "")
    told = [line.split(maxsplit=1)[1] for line in error.splitlines()]
    assert told == ["step 3 of 7", "warning: careful", "warning: take heed"]


def test_only_the_first_process_tells_progress(tmp_path):
    _, _, error = finished(tmp_path, RANK="1")
    assert "step" not in error
    assert "careful" in error


def test_errors_end_with_one_line_and_a_status(tmp_path):
    for model, line in (
        ("bad", "error: there is no model bad"),
        ("large", "error: out of memory; lower --token-budget, or choose another --device"),
    ):
        status, _, error = finished(tmp_path, "--model", model)
        assert status == 1
        assert error.splitlines()[-1] == line
        assert "Traceback" not in error
    (tmp_path / "run.yaml").write_text("bach-size: 3")
    status, _, error = finished(tmp_path, "--config", "run.yaml")
    assert (status, error) == (
        1,
        "error: run.yaml, line 1: there is no setting 'bach-size'; did you mean batch_size?\n",
    )
    status, _, error = finished(tmp_path, "--batch-size", "x")
    assert status == 2
    assert "Traceback" not in error


def test_an_error_of_our_own_keeps_its_traceback(tmp_path):
    status, _, error = finished(tmp_path, "--model", "bug")
    assert status == 1
    assert "ZeroDivisionError" in error


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_an_interruption_from_the_keyboard_ends_with_status_130(tmp_path):
    process = started(tmp_path, "--model", "interrupt")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted"
