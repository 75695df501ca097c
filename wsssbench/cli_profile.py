"""The option `--profile` of the commands."""

from typing import Annotated

import typer

ProfileOption = Annotated[
    str,
    typer.Option("--profile", "-p", help="Name of a profile, its directory or a params.yaml."),
]
DEFAULT = "params.yaml"


def read_profile(name: str):
    """The profile of that name, directory or file; see `params`, which is imported late."""
    from wsssbench.params import find, load

    return load(find(name))
