"""Memory of an indexing run, as the corpus grows tenfold.

Run: ``python benchmarks/index_memory.py`` (add ``--help`` for options).

Each run is a fresh process that indexes real text into a FAISS store with a
one-layer model of the default base's width (d = 576) and its own tokenizer:
the pipeline, the stores and the vectors are the real ones, and the model is
too small to hide what they use.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from memory import peak_mib
from texts import mixed_texts


def make_base(folder: Path) -> None:
    """Write a random one-layer LLM of the default base's width."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from autoreg_rag.base import find_folder
    from autoreg_rag.pretrained import DEFAULT_BASE

    base = find_folder(DEFAULT_BASE.name)
    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers = 1
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def make_corpus(folder: Path, characters: int) -> None:
    """Write `characters` of real text as files of about 40,000 characters."""
    folder.mkdir()
    texts, written, number = mixed_texts(4000), 0, 0
    while written < characters:
        part: list[str] = []
        while sum(map(len, part)) < min(40_000, characters - written):
            part.append(texts[(number + len(part) * 7) % len(texts)])
        content = f"File {number}.\n\n" + "\n\n".join(part)
        (folder / f"{number:05d}.txt").write_text(content, encoding="utf-8")
        written += len(content)
        number += 1


def index(base: str, corpus: str, out: str) -> None:
    """Index a corpus; print the chunks and the peak of resident memory as JSON."""
    import transformers

    from autoreg_rag.corpus import Chunker
    from autoreg_rag.index.indexer import Indexer
    from autoreg_rag.model import AutoRegModel
    from autoreg_rag.stores import Manifest, create_store

    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    model = AutoRegModel.from_pretrained(base)
    chunker = Chunker(model.backbone.tokenizer.backend_tokenizer, 32, 4)
    manifest = Manifest(model.fingerprint(), model.reference, model.dimension)
    with create_store("faiss", out, manifest) as store:
        summary = Indexer(model, store, chunker).run(corpus)
    print(json.dumps({"chunks": summary.chunks, "mib": peak_mib(), "seconds": summary.seconds}))


def main() -> None:
    """Compare a corpus with one of ten times its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=300_000, help="of the smaller corpus")
    parser.add_argument("--index", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index:
        index(*options.index)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base")
        print("| chunks | peak MiB | s |\n|---|---|---|")
        peaks = []
        for factor in (1, 10):
            corpus, out = folder / f"corpus{factor}", folder / f"index{factor}"
            make_corpus(corpus, factor * options.characters)
            command = [sys.executable, __file__, "--index", str(folder / "base")]
            result = subprocess.run(
                [*command, str(corpus), str(out)], check=True, capture_output=True, text=True
            )
            figures = json.loads(result.stdout.splitlines()[-1])
            print("| {chunks} | {mib:.0f} | {seconds:.0f} |".format(**figures))
            peaks.append(figures["mib"])
        print(f"\ntenfold corpus: {peaks[1] / peaks[0]:.3f} times the memory")


if __name__ == "__main__":
    main()
