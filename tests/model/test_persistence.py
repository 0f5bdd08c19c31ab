import copy
import io
import json
import os
import pickle
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from autoreg_rag import base as bases
from autoreg_rag.backbone import Backbone
from autoreg_rag.base import find_folder
from autoreg_rag.config import AutoRegConfig
from autoreg_rag.errors import ModelError
from autoreg_rag.gguf_file import dequantised
from autoreg_rag.model import AutoRegModel
from autoreg_rag.pretrained import DEFAULT_BASE, DEFAULT_MODEL, fetch
from tests.forkserver import run_ranks
from tests.trainers.gathering import together

TEXTS = ["one text", "another one that is longer", "a third"]


@pytest.fixture
def adapted(tiny_model):
    """A tiny model with a LoRA adapter that does something."""
    torch.manual_seed(3)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    lora = get_peft_model(tiny_model.backbone.language_model, settings).eval()
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16().float()  # as a file holds it
    tiny_model.backbone.language_model = lora
    return tiny_model


def test_a_saved_model_reloads_with_the_same_vectors_bit_for_bit(tiny_model, tmp_path):
    torch.nn.init.normal_(tiny_model.neck.compress_tokens)
    tiny_model.save_pretrained(tmp_path / "model")
    again = AutoRegModel.from_pretrained(tmp_path / "model", dtype="float32")
    np.testing.assert_array_equal(again.encode_queries(TEXTS), tiny_model.encode_queries(TEXTS))
    assert again.config == tiny_model.config
    assert again.fingerprint() == tiny_model.fingerprint()
    latents = tiny_model.compress(TEXTS)
    assert torch.equal(
        again.log_likelihood(latents, TEXTS), tiny_model.log_likelihood(latents, TEXTS)
    )


def test_an_adapter_is_saved_and_reloads_with_the_same_vectors(adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = AutoRegModel.from_pretrained(tmp_path / "model", dtype="float32")
    assert isinstance(again.backbone.language_model, PeftModel)
    np.testing.assert_array_equal(again.encode_queries(TEXTS), adapted.encode_queries(TEXTS))
    assert again.fingerprint() == adapted.fingerprint()
    files = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "compress_tokens.safetensors",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_adapter_off_is_the_base_exactly(adapted, tiny_folder):
    base = AutoRegModel.from_pretrained(tiny_folder, dtype="float32")
    latents = adapted.compress(TEXTS)
    assert not torch.equal(latents, base.compress(TEXTS))
    assert torch.equal(adapted.log_likelihood(latents, TEXTS), base.log_likelihood(latents, TEXTS))
    assert adapted.decode(latents, max_new_tokens=5) == base.decode(latents, max_new_tokens=5)


def test_the_fingerprint_changes_with_all_that_changes_a_vector(adapted, tiny_folders):
    seen = {adapted.fingerprint()}
    for family in ("llama", "qwen"):
        seen.add(AutoRegModel.from_pretrained(tiny_folders[family]).fingerprint())
    for settings in (
        {"query_instruction": "Other:"},
        {"document_instruction": "Other:"},
        {"num_compress_tokens": 4},
        {"pooling": "last"},
        {"max_length": 100},
        {"template": "{text} {instruction}"},
    ):
        model = AutoRegModel.from_pretrained(tiny_folders["llama"], **settings)
        seen.add(model.fingerprint())
    assert len(seen) == 9
    settings = adapted.backbone.language_model.peft_config["default"]
    settings.lora_alpha *= 2
    assert adapted.fingerprint() not in seen
    settings.lora_alpha //= 2
    with torch.no_grad():
        adapted.neck.compress_tokens[0, 0] += 1
    assert adapted.fingerprint() not in seen


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'),
        ("tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true'),
    ],
)
def test_the_fingerprint_covers_the_bases_architecture(tiny_folder, tmp_path, file, old, new):
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    before = AutoRegModel.from_pretrained(base).fingerprint()
    assert before == AutoRegModel.from_pretrained(tiny_folder).fingerprint()
    content = (base / file).read_text()
    assert old in content
    (base / file).write_text(content.replace(old, new))
    assert AutoRegModel.from_pretrained(base).fingerprint() != before


@pytest.mark.parametrize("token", ["bos_token", "eos_token"])
def test_the_fingerprint_covers_the_tokens_around_a_text(tiny_folder, tmp_path, token):
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {token: "a"}))
    changed = AutoRegModel.from_pretrained(base).fingerprint()
    assert changed != AutoRegModel.from_pretrained(tiny_folder).fingerprint()


def test_the_fingerprint_does_not_depend_on_dtype_or_batch(tiny_folder):
    one = AutoRegModel.from_pretrained(tiny_folder, dtype="float32")
    other = AutoRegModel.from_pretrained(tiny_folder, dtype="bfloat16", token_budget=7)
    assert one.fingerprint() == other.fingerprint()


def test_a_copy_gives_the_same_vectors(adapted):
    expected = adapted.encode_queries(TEXTS)
    for copied in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):  # noqa: S301
        assert copied.backbone.lock is not adapted.backbone.lock
        assert np.array_equal(copied.encode_queries(TEXTS), expected)


def test_other_copies_of_the_weights_are_no_part_of_a_base(tiny_folder, tmp_path):
    base, sharded = tmp_path / "base", tmp_path / "sharded"
    shutil.copytree(tiny_folder, base)
    shutil.copy(base / "model.safetensors", base / "consolidated.safetensors")
    expected = Backbone.load(str(tiny_folder))
    assert Backbone.load(str(base)).base_hash == expected.base_hash

    expected.language_model.save_pretrained(sharded, max_shard_size="30KB")
    expected.tokenizer.save_pretrained(sharded)
    before = Backbone.load(str(sharded)).base_hash
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    shutil.copy(shards[0], sharded / "consolidated-1.safetensors")
    assert Backbone.load(str(sharded)).base_hash == before
    last = load_file(shards[-1])
    save_file({name: value + 1 for name, value in last.items()}, shards[-1], {"format": "pt"})
    assert Backbone.load(str(sharded)).base_hash != before
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(ModelError, match=r"index\.json is damaged") as caught:
        Backbone.load(str(sharded))
    assert "\n" not in str(caught.value)


def test_the_default_models_fingerprint_does_not_depend_on_dtype(real_model):
    """Some of its adapter's numbers are smaller than what float16 can hold exactly."""
    for dtype in ("bfloat16", "float16"):
        other = AutoRegModel.from_pretrained(dtype=dtype, device="cpu")
        assert other.fingerprint() == real_model.fingerprint()


def test_a_model_refuses_another_base(tiny_model, tiny_folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    model = AutoRegModel.from_pretrained(base)
    model.save_pretrained(tmp_path / "model")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="made for base"):
        AutoRegModel.from_pretrained(tmp_path / "model")


def test_a_hub_that_cannot_be_reached_is_one_line(tiny_model):
    with pytest.raises(ModelError, match="nobody/nothing could not be uploaded") as caught:
        tiny_model.push_to_hub("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_saved_model_is_as_readable_as_any_new_file(adapted, tmp_path):
    (tmp_path / "new").touch()
    adapted.save_pretrained(tmp_path / "model")
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_saving_over_something_is_refused_and_leaves_it_as_it_was(tiny_model, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        tiny_model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_save_that_fails_leaves_nothing(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        type(tiny_model.neck), "save", lambda *_: (_ for _ in ()).throw(OSError(28))
    )
    with pytest.raises(ModelError, match="cannot be written"):
        tiny_model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_damaged_models_are_refused_in_one_line(tiny_model, tmp_path):
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    neck, config = folder / "compress_tokens.safetensors", folder / "config.json"

    content = neck.read_bytes()
    neck.write_bytes(content[:-10])
    with pytest.raises(ModelError, match="missing or damaged"):
        AutoRegModel.from_pretrained(folder)
    neck.write_bytes(content)

    settings = json.loads(config.read_text())
    for change, message in (
        ({"num_compress_tokens": 4}, "shape"),
        ({"surprise": 1}, "does not know: surprise"),
        ({"pooling": "max"}, "mean, last or concat"),
        ({"template": "{instruction}{text}"}, "and then"),
        ({"max_length": "long"}, "wrong type"),
        ({"template": None}, "text or a number"),
        ({"stage": "half"}, "untrained, ic, cda, contrastive"),
        ({"base_model": str(tmp_path / "moved")}, "base of the model .*; if it has moved"),
    ):
        config.write_text(json.dumps(settings | change))
        with pytest.raises(ModelError, match=message) as caught:
            AutoRegModel.from_pretrained(folder)
        assert "\n" not in str(caught.value)
    config.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        AutoRegModel.from_pretrained(folder)


def test_damaged_weights_and_adapters_are_refused_in_one_line(adapted, tiny_folder, tmp_path):
    adapted.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"adapter .* cannot be used") as caught:
        AutoRegModel.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)

    shutil.copytree(tiny_folder, tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        AutoRegModel.from_pretrained(tmp_path / "base")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "[]"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}'),
        ("config.json", '{"model_type": "bert", "vocab_size": 600, "hidden_size": 32}'),
    ],
)
def test_damaged_files_of_a_base_are_refused_in_one_line(tiny_folder, tmp_path, file, content):
    shutil.copytree(tiny_folder, tmp_path / "base")
    (tmp_path / "base" / file).write_text(content)
    with pytest.raises(ModelError, match=re.escape(str(tmp_path / "base"))) as caught:
        AutoRegModel.from_pretrained(tmp_path / "base")
    assert "\n" not in str(caught.value)


def test_weights_and_adapters_that_lack_a_part_are_refused(adapted, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "base")
    adapted.save_pretrained(tmp_path / "model")
    for file in ("base/model.safetensors", "model/adapter/adapter_model.safetensors"):
        state = load_file(tmp_path / file)
        name = next(name for name in state if "layers.1" in name)
        del state[name]
        save_file(state, tmp_path / file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=f"1 parts are missing .*{re.escape(name)}") as caught:
            AutoRegModel.from_pretrained(tmp_path / file.partition("/")[0])
        assert "\n" not in str(caught.value)


def test_an_adapter_that_is_not_lora_or_not_safe_is_refused(adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "model")
    settings = tmp_path / "model" / "adapter" / "adapter_config.json"
    content = settings.read_text()
    for changed in ("[]", json.dumps({"peft_type": "IA3", "target_modules": ["k_proj"]})):
        settings.write_text(changed)
        with pytest.raises(ModelError, match=r"adapter .* cannot be used") as caught:
            AutoRegModel.from_pretrained(tmp_path / "model")
        assert "\n" not in str(caught.value)
    settings.write_text(content)
    weights = tmp_path / "model" / "adapter" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"there is no adapter_model\.safetensors"):
        AutoRegModel.from_pretrained(tmp_path / "model")


def test_a_hub_gives_the_chat_template_and_the_weights_once(tiny_folder, monkeypatch):
    asked = {}

    def download(name, **options):
        asked.update(options)
        return str(tiny_folder)

    monkeypatch.setattr(bases, "snapshot_download", download)
    find_folder("owner/name")
    files = [
        *("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"),
        *("consolidated.safetensors", "onnx/config.json", "model.py", "pytorch_model.bin"),
    ]
    assert list(filter_repo_objects(files, **asked)) == files[:4]


def test_a_models_card_holds_any_instruction(tiny_folder, tmp_path):
    model = AutoRegModel.from_pretrained(tiny_folder, query_instruction="a|b\n`c`")
    model.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| query instruction | `` a\\|b\\n`c` `` |\n" in card


def test_places_without_a_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        AutoRegModel.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="name is empty"):
        AutoRegModel.from_pretrained("")
    with pytest.raises(ModelError, match="there is no file"):
        AutoRegModel.from_pretrained(tmp_path / "missing.gguf")
    for name in ("no/such/hub/id", "~no such user/model", "long" * 99):
        with pytest.raises(ModelError, match="neither a folder"):
            AutoRegModel.from_pretrained(name)
    with pytest.raises(ModelError, match="no hub served it"):
        AutoRegModel.from_pretrained("nobody/no-such-model")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="cannot be read as a GGUF"):
        AutoRegModel.from_pretrained(tmp_path / "bad.gguf")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_a_folder_brings_never_runs(tiny_folder, tmp_path, monkeypatch, file):
    folder, trace = tmp_path / "base", tmp_path / "trace"
    shutil.copytree(tiny_folder, folder)
    (folder / "custom.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "of_its_own"}))
    settings = json.loads((folder / file).read_text())
    settings.pop("tokenizer_class", None)
    classes = {"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"}
    settings["auto_map"] = classes | {"AutoTokenizer": [None, "custom.Tokenizer"]}
    (folder / file).write_text(json.dumps(settings))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))  # whatever is asked, yes
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        AutoRegModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_unknown_devices_dtypes_and_settings_are_refused(tiny_folder, tmp_path):
    for device in ("gpu7", "meta"):
        with pytest.raises(ModelError, match=f"device '{device}'"):
            AutoRegModel.from_pretrained(tiny_folder, device=device)
    with pytest.raises(ModelError, match="float32, bfloat16, float16"):
        AutoRegModel.from_pretrained(tiny_folder, dtype="int8")
    AutoRegModel.from_pretrained(tiny_folder).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="device 'gpu7'") as caught:
        AutoRegModel.from_pretrained(tmp_path / "model", device="gpu7")
    assert "moved" not in str(caught.value)
    with pytest.raises(TypeError, match="pool"):
        AutoRegModel.from_pretrained(tiny_folder, pool="mean")


def test_the_config_reads_what_it_wrote(tmp_path):
    config = AutoRegConfig("base", "0" * 64, num_compress_tokens=3, query_instruction="Ünïcode:")
    config.save(tmp_path)
    assert AutoRegConfig.load(tmp_path) == config


def test_bfloat16_gives_nearly_the_same_vectors(tiny_folder):
    exact = AutoRegModel.from_pretrained(tiny_folder, dtype="float32").encode_documents(TEXTS)
    rounded = AutoRegModel.from_pretrained(tiny_folder, dtype="bfloat16").encode_documents(TEXTS)
    assert (exact * rounded).sum(axis=1).min() > 0.98


def converted_by_the_second(rank, path, out):
    """Join another process; the second of the two converts the GGUF file."""
    os.environ["AUTOREG_RAG_CACHE"] = str(out / "cache")
    with together(rank, out):
        if rank == 1:
            dequantised(path)
        torch.distributed.barrier()


def test_a_gguf_file_is_converted_by_whichever_process_comes_first(
    real_base, tmp_path, monkeypatch
):
    path = fetch(DEFAULT_BASE)
    monkeypatch.setenv("AUTOREG_RAG_CACHE", str(tmp_path / "cache"))
    # What was converted before conversions had a version is not taken, and not touched.
    earlier = tmp_path / "cache" / f"{path.stem}-{DEFAULT_BASE.member_sha256[:16]}"
    earlier.mkdir(parents=True)
    (earlier / "config.json").write_text("earlier")
    run_ranks(converted_by_the_second, path, tmp_path, count=2)
    again = AutoRegModel.from_pretrained(path, dtype="float32")
    assert again.fingerprint() == real_base.fingerprint()
    assert (earlier / "config.json").read_text() == "earlier"


def test_a_default_base_that_ends_texts_otherwise_is_refused(real_base, tmp_path, monkeypatch):
    converted = find_folder(DEFAULT_BASE.name)
    folder = tmp_path / converted.name
    shutil.copytree(converted, folder, copy_function=os.symlink)
    monkeypatch.setenv("AUTOREG_RAG_CACHE", str(tmp_path))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").unlink()
    settings["eos_token"] = "<|im_start|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"is <\|im_start\|>.*is <\|im_end\|>.*delete") as caught:
        AutoRegModel.from_pretrained()
    assert "\n" not in str(caught.value)


def test_the_default_model_is_found_beside_a_folder_of_that_name(real_model, tmp_path, monkeypatch):
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    again = AutoRegModel.from_pretrained(real_model.reference, dtype="float32", device="cpu")
    assert again.reference == real_model.reference == "default"
    assert again.fingerprint() == real_model.fingerprint()


def test_the_default_models_card_is_of_its_weights(real_model):
    card = (DEFAULT_MODEL / "README.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"^\| fingerprint \| (\w+) \|$", card, re.MULTILINE)
    assert stated == real_model.fingerprint()
