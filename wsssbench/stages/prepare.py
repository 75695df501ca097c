"""Stage prepare: make or check the data set folder and write down what it holds."""

from pathlib import Path

from wsssbench import data
from wsssbench.data import layout
from wsssbench.data.manifest import manifest
from wsssbench.data.verify import Report, verify
from wsssbench.errors import UserError
from wsssbench.files import write_json
from wsssbench.params import Profile
from wsssbench.stages.common import prepare_dir


def prepare(profile: Profile) -> Report:
    """Make the folder, verify all of it and write runs/<profile>/prepare/manifest.json.

    Raises:
        UserError: the data set has errors; the first few are listed, with remedies.
    """
    wanted = profile.data
    data.prepare(wanted.source, wanted.root, **wanted.options)
    splits = [s for s in dict.fromkeys([wanted.train, *wanted.scored, wanted.holdout]) if s]
    masked = [wanted.holdout] if wanted.holdout else []
    masked += [wanted.train] if profile.grid.upper_bound else []  # true masks teach it
    report = verify(wanted.root, splits, masks_for=masked)
    report.raise_on_errors()
    _check_holdout(profile)
    write_json(prepare_dir(profile) / "manifest.json", manifest(wanted.root, splits))
    return report


def _check_holdout(profile: Profile) -> None:
    """Refuse a hold-out that shares images with what is trained on or scored."""
    wanted = profile.data
    if not wanted.holdout:
        return
    root = Path(wanted.root)
    held = set(layout.read_ids(root, wanted.holdout))
    for split in dict.fromkeys([wanted.train, *wanted.scored]):
        if both := sorted(held & set(layout.read_ids(root, split))):
            raise UserError(
                f"{len(both)} images are in the hold-out {wanted.holdout!r} as well as in "
                f"{split!r}, e.g. {both[0]!r}: thresholds would be chosen on images that are "
                "scored. Take them off one list."
            )
