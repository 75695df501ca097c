"""Stage report: all runs of the grid -> reports/<profile>/."""

from pathlib import Path

from wsssbench.params import Profile
from wsssbench.reporting import build


def report(profile: Profile) -> Path:
    """Write tables, figures, summary.json and index.html; runs that are missing are shown so.

    Returns:
        The path of index.html.
    """
    return build(
        Path("runs") / profile.profile,
        Path("reports") / profile.profile,
        profile=profile.profile,
        experiments=profile.grid.experiments,
        seeds=profile.grid.seeds,
        data_root=profile.data.root,
        title=profile.report.title,
        note=profile.report.note,
        gallery=profile.report.gallery,
    )
