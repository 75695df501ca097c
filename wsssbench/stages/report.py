"""Stage report: all runs of the grid -> reports/<profile>/."""

import dataclasses
from pathlib import Path

from wsssbench.params import UPPER_BOUND, Profile
from wsssbench.reporting import build
from wsssbench.stages.common import kinds_of, later_kinds_of


def report(profile: Profile) -> Path:
    """Write tables, figures, summary.json and index.html; runs that are missing are shown so.

    Returns:
        The path of index.html.

    Raises:
        UserError: a table of the profile names a row, column or split that there is not.
    """
    chosen = {name: profile.experiments[name] for name in profile.grid.experiments}
    later = {name: later_kinds_of(profile, name) for name in profile.grid.multi_stage}
    return build(
        Path("runs") / profile.profile,
        Path("reports") / profile.profile,
        profile=profile.profile,
        kinds={name: (*kinds_of(profile, name), *later.get(name, ())) for name in chosen},
        seeds=profile.grid.seeds,
        data_root=profile.data.root,
        titles={name: one.title for name, one in chosen.items()},
        title=profile.report.title,
        note=profile.report.note,
        gallery=profile.report.gallery,
        tables=[dataclasses.asdict(table) for table in profile.report.tables],
        upper_bound=profile.grid.upper_bound,
        upper_bound_kinds=later_kinds_of(profile, UPPER_BOUND),
        published={name: one.published or one.method for name, one in chosen.items()},
    )
