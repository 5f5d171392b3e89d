"""From collected facts to HTML: the template with its style and script inside, locked by a content policy."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any

_TEMPLATES = "nnunet_spine_ext.report"


def render_page(context: dict[str, Any]) -> str:
    """Fill the template.

    Every text is escaped. The content policy allows the one script whose hash it names, images from data URIs and
    nothing from any network, so a script that slipped in as text would still not run.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _resource("report.js").strip()
    digest = b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    )
    # Both files are part of the package and hold no input.
    inline = {"style": Markup(_resource("report.css").strip()), "script": Markup(script)}  # noqa: S704
    return environment.get_template("report.html.j2").render(policy=policy, **inline, **context)


def _resource(name: str) -> str:
    return files(_TEMPLATES).joinpath("templates", name).read_text(encoding="utf-8")
