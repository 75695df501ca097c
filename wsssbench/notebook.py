"""Run one notebook as a pipeline stage: python -m wsssbench.notebook SOURCE TARGET key=value ...

Papermill does the work. Added: unknown parameters and wrong types are errors, the output folder is
made, SIGTERM stops the kernel too, a person's error is one line, and times and random ids are
dropped from the executed notebook, so that equal runs give equal files.
"""

import ast
import logging
import os
import sys
from pathlib import Path
from typing import Any

from wsssbench.command import run_command, stop_on_sigterm
from wsssbench.errors import UserError, unknown

TIMING = ("papermill", "execution")


def parse(defaults: dict[str, Any], pairs: list[str], source: str) -> dict[str, Any]:
    """key=value texts -> values of the type of the notebook's default.

    Raises:
        UserError: a pair without `=`, a name the notebook does not take, a value of another type.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"{pair!r} is not of the form key=value.")
        if name not in defaults:
            raise UserError(f"{source}: {unknown('parameter', name, defaults)}")
        values[name] = _value(defaults[name], text, f"{source}: {name}")
    return values


def parameters(source: str | Path) -> dict[str, Any]:
    """Default values of the cell tagged `parameters`.

    Raises:
        UserError: no such notebook, no such cell, or a default that is not a plain value.
    """
    import papermill

    if not Path(source).is_file():
        raise UserError(f"Notebook {source} does not exist. Run from the repository's top.")
    found = papermill.inspect_notebook(str(source))
    if not found:
        raise UserError(f"{source} has no cell tagged `parameters`, so its values cannot be set.")
    try:
        return {name: ast.literal_eval(item["default"]) for name, item in found.items()}
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"{source}: a parameter's default is not a plain value ({error})."
        ) from error


def run(source: str | Path, target: str | Path, pairs: list[str]) -> None:
    """Execute `source` with the parameters in `pairs` and keep the executed copy at `target`.

    Raises:
        UserError: see `parse` and `parameters`; or the notebook stopped with a UserError.
        papermill.PapermillExecutionError: any other error in a cell.
    """
    import papermill

    values = parse(parameters(source), pairs, str(source))
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.environ["PAPERMILL_OUTPUT_PATH"] = str(target)  # the kernel's progress prints plain lines
    stop_on_sigterm()
    try:
        papermill.execute_notebook(
            source,
            target,
            values,
            kernel_name="python3",
            progress_bar=False,
            log_output=True,
            autosave_cell_every=60,
            coalesce_streams=True,
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == UserError.__name__:
            raise UserError(error.evalue) from error
        raise
    finally:
        if target.exists():
            strip(target)


def strip(path: Path) -> None:
    """Drop run times and random ids from an executed notebook."""
    import nbformat

    notebook = nbformat.read(path, 4)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = str(number)
    for holder in (notebook.metadata, *(cell.metadata for cell in notebook.cells)):
        for key in TIMING:
            holder.pop(key, None)
    nbformat.write(notebook, path)


def _value(default: Any, text: str, where: str) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        wanted = type(default).__name__
        raise UserError(f"{where}: expected a {wanted} like {default!r}, got {text!r}.")
    return value


def main() -> None:
    """Command line of the runner."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("traitlets", "papermill.translators"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if len(sys.argv) < 3:
        raise SystemExit("usage: python -m wsssbench.notebook SOURCE TARGET [key=value ...]")
    run_command(lambda: run(sys.argv[1], sys.argv[2], sys.argv[3:]))


if __name__ == "__main__":
    main()
