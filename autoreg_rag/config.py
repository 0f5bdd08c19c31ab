"""What an AutoRegEmbed model is, apart from its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from autoreg_rag.errors import ModelError
from autoreg_rag.files import write_whole

FORMAT = "autoreg_rag"
CONFIG_FILE = "config.json"

Pooling = Literal["mean", "last", "concat"]
Stage = Literal["untrained", "ic", "cda", "contrastive"]


@dataclass(frozen=True)
class AutoRegConfig:
    r"""Settings that are saved with a model and reloaded without flags.

    Attributes
    ----------
    base_model
        The causal LM that serves as encoder and decoder: a hub id, a folder, a
        GGUF file, or the name of the packaged base.
    base_hash
        What `Backbone.base_hash` must be: SHA-256 over weights, architecture and
        tokenizer. A model refuses any other base.
    num_compress_tokens
        k, how many vectors a text is compressed into.
    query_instruction
        I_next: asks for the text that answers or follows.
    document_instruction
        I_self: asks for the text itself.
    template
        How text and instruction are joined; ``{text}`` stands before
        ``{instruction}``. The beginning-of-text token goes in front and the
        compress tokens follow.
    pooling
        How k vectors become one: their ``mean``, the ``last``, or their
        ``concat``-enation (then d is k times as long).
    max_length
        The most tokens of a text that are encoded. Instruction and compress
        tokens come on top: a longer text is cut, they never are.
    stage
        How far the model is trained.
    """

    base_model: str
    base_hash: str
    num_compress_tokens: int = 5
    query_instruction: str = 'The passage that answers this: "'
    document_instruction: str = 'The passage in one word: "'
    template: str = "{text}\n{instruction}"
    pooling: Pooling = "mean"
    max_length: int = 512
    stage: Stage = "untrained"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not isinstance(value := getattr(self, field.name), (int, str)):
                raise ModelError(f"{field.name} is {value!r}; it must be text or a number")
            if isinstance(value, int) != (field.type == "int"):
                raise ModelError(f"{field.name} is {value!r}, of the wrong type")
        if self.num_compress_tokens < 1:
            raise ModelError(
                f"num_compress_tokens is {self.num_compress_tokens}; it must be 1 or more"
            )
        if self.max_length < 1:
            raise ModelError(f"max_length is {self.max_length}; it must be 1 or more")
        if self.pooling not in ("mean", "last", "concat"):
            raise ModelError(f"pooling is {self.pooling!r}; it must be mean, last or concat")
        if self.stage not in get_args(Stage):
            stages = ", ".join(get_args(Stage))
            raise ModelError(f"stage is {self.stage!r}; it must be one of {stages}")
        text, instruction = self.template.find("{text}"), self.template.find("{instruction}")
        if not 0 <= text < instruction:
            raise ModelError(
                f"template is {self.template!r}; it must hold {{text}} and then {{instruction}}"
            )

    @property
    def prefix(self) -> str:
        """What stands before the text."""
        return self.template.partition("{text}")[0]

    def suffix(self, instruction: str) -> str:
        """Return what stands between the text and the compress tokens."""
        return self.template.partition("{text}")[2].replace("{instruction}", instruction)

    def vector_settings(self) -> dict[str, Any]:
        """Return the settings that change a vector, for the model's fingerprint."""
        settings = dataclasses.asdict(self)
        # Where the base came from and how the rest was trained do not change a
        # vector: the hash of the weights stands for both.
        del settings["base_model"], settings["stage"]
        return settings

    def save(self, folder: Path) -> None:
        """Write ``config.json`` into `folder`."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        write_whole(folder / CONFIG_FILE, (json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> AutoRegConfig:
        """Read ``config.json`` from `folder`.

        Raises
        ------
        ModelError
            The file is missing, is not JSON, or holds unknown or bad settings.
        """
        path = folder / CONFIG_FILE
        content = read_config(folder)
        if content is None or content.pop("format", None) != FORMAT:
            raise ModelError(f"{path} does not describe an autoreg-rag model")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(content) - known):
            raise ModelError(
                f"{path} has settings this version does not know: {', '.join(unknown)}; "
                "upgrade autoreg-rag"
            )
        try:
            return cls(**content)
        except TypeError as error:
            raise ModelError(f"{path} is incomplete: {error}") from error


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the JSON object in a folder's ``config.json``, or None where there is none."""
    path = folder / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} is not a JSON object")
    return dict(content)


def is_model_folder(folder: Path) -> bool:
    """Tell a folder that `AutoRegModel.save_pretrained` wrote from any other."""
    content = read_config(folder)
    return content is not None and content.get("format") == FORMAT
