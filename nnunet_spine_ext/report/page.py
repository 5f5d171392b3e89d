"""From collected facts to HTML: the template with its style, scripts and data inside, locked by a content policy."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any

_TEMPLATES = "nnunet_spine_ext.report"
# One scope: a file may use what an earlier one declares.
_SCRIPTS = ("base.js", "marks.js", "table.js", "pictures.js", "details.js", "start.js")
_STYLES = ("page.css", "cases.css")


def render_page(context: dict[str, Any], data: Any, details: list[Any]) -> str:
    """Fill the template.

    Every text is escaped. The content policy allows the one script whose hash it names, images from data URIs and
    nothing from any network, so a script that slipped in as text would still not run.

    Parameters
    ----------
    context: variables of the template.
    data: what the script needs about all cases, as plain JSON values.
    details: the same for each case; read when its details are opened.
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
    inner = "\n".join(_resource(name).strip() for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{inner}\n}})();'
    digest = b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    # Style and scripts are part of the package and hold no input; JSON is made inert by `_json`.
    inline = {
        "style": Markup("\n".join(_resource(name).strip() for name in _STYLES)),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "data": Markup(_json(data)),  # noqa: S704
        "details": [Markup(_json(one)) for one in details],  # noqa: S704
    }
    return environment.get_template("page.html.j2").render(policy=policy, **inline, **context)


def _json(value: Any) -> str:
    """Return JSON in which no text can end the element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _resource(name: str) -> str:
    return files(_TEMPLATES).joinpath("templates", name).read_text(encoding="utf-8")
