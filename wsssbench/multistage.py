"""The stages after the pseudo-masks: which kinds of masks they leave, and where.

An experiment's row `cam` has such kinds beside those it is read out in: `cam/crf` the seed after a
dense CRF, `cam/ppmg` the masks that PPMG makes of the same maps, `cam/rw` after the random walk,
`cam/segment` the predictions of a segmentation network trained on its pseudo-masks; `+crf` is each
after a dense CRF.
"""

from pathlib import Path

SEED, CRF, PPMG, WALK = "seed", "crf", "ppmg", "rw"
SEGMENT, TRUTH = "segment", "truth"
STAGES = {  # stage: the kinds it can leave
    "random_walk": (CRF, PPMG, WALK, f"{WALK}+{CRF}"),
    "segment": (SEGMENT, f"{SEGMENT}+{CRF}"),
}
LATER = tuple(kind for kinds in STAGES.values() for kind in kinds)
PUBLISHED = {  # kind: what papers call it, see `published.vocabulary`
    CRF: "seed+crf",
    PPMG: "pseudo mask",
    WALK: "seed+rw",
    f"{WALK}+{CRF}": "seed+rw+crf",
    SEGMENT: "multi-stage (no crf)",
    f"{SEGMENT}+{CRF}": "multi-stage",
}


def masks_dir(run: Path, kind: str) -> Path:
    """Where the masks (and maps) of a kind lie: <split>/masks/<id>.png below."""
    for stage, kinds in STAGES.items():
        if kind in kinds:
            return run / stage / kind
    return run / "pseudo_masks" / kind


def scores_dir(run: Path, kind: str) -> Path:
    """Where the scores of a kind lie: record.json, and tables per split."""
    return run / ("evaluate_stages" if kind in LATER else "evaluate") / kind
