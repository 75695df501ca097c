"""Stage report: all runs of the grid -> reports/<profile>/."""

import dataclasses
from pathlib import Path

from wsssbench.errors import UserError
from wsssbench.params import UPPER_BOUND, Profile
from wsssbench.reporting import build
from wsssbench.stages.common import kinds_of, later_kinds_of


def report(profile: Profile) -> Path:
    """Write tables, figures, summary.json and index.html; runs that are missing are shown so.

    Returns:
        The path of index.html.

    Raises:
        UserError: a table of the profile names a row, column or split that there is not; there is
            a page already, and no run that could replace it.
    """
    runs, page = Path("runs") / profile.profile, Path("reports") / profile.profile / "index.html"
    if page.exists() and not any(runs.glob("*/evaluate*/*/record.json")):
        raise UserError(
            f"{runs} holds no scored run, so {page} is kept as it is. Make some: python -m "
            f"wsssbench run -p {profile.params_file}"
        )
    chosen = {name: profile.experiments[name] for name in profile.grid.experiments}
    later = {name: later_kinds_of(profile, name) for name in profile.grid.multi_stage}
    return build(
        runs,
        page.parent,
        profile=profile.profile,
        kinds={name: (*kinds_of(profile, name), *later.get(name, ())) for name in chosen},
        seeds=profile.grid.seeds,
        data_root=profile.data.root,
        titles={name: one.title for name, one in chosen.items()},
        title=profile.report.title,
        note=profile.report.note,
        gallery=profile.report.gallery,
        shown=[name for name in profile.report.figures if name in chosen],
        tables=_tables(profile),
        upper_bound=profile.grid.upper_bound,
        upper_bound_kinds=later_kinds_of(profile, UPPER_BOUND),
        published={name: one.published or one.method for name, one in chosen.items()},
    )


def _tables(profile: Profile) -> list[dict]:
    """Tables of chosen rows, as far as their experiments are in the grid."""
    left_out = set(profile.experiments) - set(profile.grid.experiments)
    tables = []
    for table in profile.report.tables:
        rows = [row for row in table.rows if row.partition("/")[0] not in left_out]
        if rows:
            gone = table.baseline.partition("/")[0] in left_out
            kept = dataclasses.replace(table, rows=rows, baseline="" if gone else table.baseline)
            tables.append(dataclasses.asdict(kept))
    return tables
