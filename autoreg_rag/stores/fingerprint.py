"""Whether an index belongs to a model."""

from __future__ import annotations

import shlex

from autoreg_rag.errors import FingerprintError
from autoreg_rag.stores.base import Store


def check_fingerprint(store: Store, fingerprint: str, model: str) -> None:
    """Refuse an index that another model made, or the same model with other settings.

    Parameters
    ----------
    store
        The index.
    fingerprint, model
        Of the model at hand; the name or folder from which it can be loaded.

    Raises
    ------
    FingerprintError
        If the fingerprints differ.
    """
    manifest = store.manifest
    if manifest.fingerprint == fingerprint:
        return
    corpora = shlex.join(manifest.corpora.values()) or "CORPUS"
    command = (
        f"python -m autoreg_rag.index {corpora} {store.options()} --model {shlex.quote(model)}"
    )
    if manifest.model == model:
        made, other = f"the model '{model}' with other settings or weights", "those"
        command += " (settings given in code are to be saved with a model, and that named)"
    else:
        made, other = f"the model '{manifest.model}'", f"--model {shlex.quote(manifest.model)}"
    raise FingerprintError(
        f"the index was made by {made} (fingerprint {manifest.fingerprint[:12]}), at hand is "
        f"'{model}' ({fingerprint[:12]}): use the index with {other}, or index anew: {command}"
    )
