"""The page at "/": type a text, see its scores and which words made them. It asks nothing of any other server."""

from __future__ import annotations

import base64
import functools
import hashlib
import html as escaping
from collections.abc import Sequence
from pathlib import Path
from string import Template

from bertwright.shipping.server.models import ServedModel

_FOLDER = Path(__file__).parent / "page"


@functools.cache
def _files() -> tuple[Template, str, str]:
    page, style, script = (
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    return Template(page), style, script


def html(models: Sequence[ServedModel], num_workers: int) -> bytes:
    """The page for these models, which ``num_workers`` processes serve."""
    page, style, script = _files()
    options = "".join(
        f'<option value="{escaping.escape(model.name)}" data-pairs="{str(model.scorer.settings.pairs).lower()}">'
        f"{escaping.escape(model.name)}</option>"
        for model in models
    )
    return page.substitute(style=style, script=script, options=options, num_workers=num_workers).encode()


def headers() -> list[tuple[bytes, bytes]]:
    """Of the page: nothing but its own style and script runs in it, and it may ask this server alone."""
    _, style, script = _files()
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
        (b"vary", b"Accept"),
    ]


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
