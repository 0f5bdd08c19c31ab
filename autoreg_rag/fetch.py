"""The command ``python -m autoreg_rag.fetch``: get a model ahead of time."""

from __future__ import annotations

import typer

from autoreg_rag import cli


def fetch(model: cli.Model = None) -> None:
    """Fetch and convert a model, so that later runs need no network."""
    loaded = cli.load_model(model)
    typer.echo(f"{loaded.name}: ready, fingerprint {loaded.fingerprint()}")


if __name__ == "__main__":
    cli.main(fetch)
