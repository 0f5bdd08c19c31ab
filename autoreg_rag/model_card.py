"""The README.md of a saved model."""

from __future__ import annotations

import re
from pathlib import Path

from autoreg_rag.config import AutoRegConfig
from autoreg_rag.files import write_whole

CARD = """\
---
library_name: autoreg-rag
pipeline_tag: sentence-similarity
tags: [autoregembed, embeddings, retrieval]
---
# {title}

An AutoRegEmbed model (stage: {stage}) on {base}: a text is compressed into
{k} vectors, from which the frozen base can generate it.

```python
from autoreg_rag import AutoRegModel

model = AutoRegModel.from_pretrained("PATH OR NAME OF THIS FOLDER")
queries = model.encode_queries(["Who wrote it?"])
documents = model.encode_documents(["She wrote it in 1818."])
print(queries @ documents.T)
```

| setting | value |
|---|---|
| base | {base}, weights SHA-256 {base_hash} |
| fingerprint | {fingerprint} |
| compress tokens | {k} |
| query instruction | {query} |
| document instruction | {document} |
| pooling | {pooling} |
| longest text | {max_length} tokens |
"""


def write_model_card(folder: Path, config: AutoRegConfig, fingerprint: str) -> None:
    """Write a ``README.md`` that says what the model in `folder` is and how to use it."""
    path = Path(config.base_model)
    base = path.name if path.exists() else config.base_model
    card = CARD.format(
        title=f"AutoRegEmbed on {base}",
        stage=config.stage,
        base=base,
        base_hash=config.base_hash,
        fingerprint=fingerprint,
        k=config.num_compress_tokens,
        query=_in_table(config.query_instruction),
        document=_in_table(config.document_instruction),
        pooling=config.pooling,
        max_length=config.max_length,
    )
    write_whole(folder / "README.md", card.encode())


def _in_table(text: str) -> str:
    """Return a text as code that a table's cell can hold, line ends and all."""
    text = text.replace("\n", "\\n").replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " * (len(fence) > 1)
    return f"{fence}{pad}{text}{pad}{fence}"
