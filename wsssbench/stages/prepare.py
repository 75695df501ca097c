"""Stage prepare: make or check the data set folder and write down what it holds."""

from wsssbench import data
from wsssbench.data.manifest import manifest
from wsssbench.data.verify import Report, verify
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
    report = verify(wanted.root, splits, masks_for=[wanted.holdout] if wanted.holdout else [])
    report.raise_on_errors()
    write_json(prepare_dir(profile) / "manifest.json", manifest(wanted.root, splits))
    return report
