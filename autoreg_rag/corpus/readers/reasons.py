"""Words for what went wrong."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """Say in one line what an exception of any library means for the user."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return f"damaged or malformed ({type(error).__name__}{': ' + lines[0] if lines else ''})"
