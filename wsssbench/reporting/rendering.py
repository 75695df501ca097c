"""The one function that fills the jinja2 templates beside it."""

from functools import cache
from typing import Any

import jinja2


def render(name: str, **values: Any) -> str:
    """Fill the template `name`; every value is escaped unless it is marked as safe there."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("wsssbench.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
