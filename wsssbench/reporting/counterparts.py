"""Which published figures are about what a row of ours is about, and what they print."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from wsssbench.multistage import PUBLISHED
from wsssbench.params import UPPER_BOUND
from wsssbench.reporting.protocols import protocol
from wsssbench.reporting.records import Run

NAMES = {"voc12": "VOC2012", "voc2012": "VOC2012", "coco14": "COCO2014", "coco2014": "COCO2014"}
REFERENCE = "VOC2012"  # beside it our figures on other data sets are shown, without comparison
DECODER, SEED, DECODER_SEED = "decoder", "seed", "decoder seed"
USUAL = ("cam", "pcm", "is_cam", "fused", DECODER)  # kinds that go by the method's own name
PROTOTYPE, PROTOTYPE_SEED = "proto", "prototype seed"
CLASSIFIER, UNSAID = "classification", "unknown"
PREFERRED = "ResNet-50"  # of several printed figures
SUPERVISED = {"deeplab_v2": "deeplabv2", "deeplab_v3plus": "deeplabv3"}  # of the upper bound
UNPUBLISHED = "none"


class Printed(NamedTuple):
    """What papers print for one number: as one text, and {source: value}."""

    text: str = ""
    values: Mapping[str, float] = {}
    backbones: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


def data_set(name: str | None) -> str:
    """The published vocabulary's word for a data set of ours, or its own name."""
    return NAMES.get(str(name).lower().replace("-", "").replace("_", ""), str(name))


def published_name(run: Run, names: Mapping[str, str], known: Iterable[str]) -> str:
    """The published vocabulary's word for the recipe of a run.

    Args:
        run: one of ours.
        names: {experiment: published method} where they differ.
        known: published methods; an experiment named like one of these counts as that.

    Returns:
        Name of a method, by default the run's own; empty for a run that left no file, and where
        `names` says `none`: nobody has published this recipe.
    """
    if given := names.get(run.experiment):
        return "" if given == UNPUBLISHED else given
    own = run.experiment if run.experiment in set(known) else run.provenance.get("method")
    return str(own or "")


def counterpart(
    run: Run, figures: pd.DataFrame, names: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Method and stage under which papers print what this kind of maps shows.

    Another kind than CAM and decoder is the recipe `<method>+<kind>` where that is published. Else,
    if the method has published maps of a decoder, its `seed` is what its CAM branch gives; the
    papers do not say with which refinement. Else there is nothing of the kind: an empty method.

    Args:
        run: one of ours.
        figures: published figures.
        names: as in `published_name`.
    """
    if run.experiment == UPPER_BOUND:
        method = SUPERVISED.get(str(run.provenance.get("method")), "")
        return method, PUBLISHED[run.maps].replace("multi-stage", "fully supervised")
    base = published_name(run, names or {}, figures["method"])
    if run.later:
        return base, PUBLISHED[run.maps]
    stage = str(protocol(run).get("stage") or SEED)
    if run.maps in USUAL:
        return base, DECODER_SEED if run.maps == DECODER else stage
    if run.maps == PROTOTYPE:
        return base, PROTOTYPE_SEED
    if (figures["method"] == f"{base}+{run.maps}").any():
        return f"{base}+{run.maps}", stage
    decoded = (figures["method"] == base) & (figures["stage"] == DECODER_SEED)
    return (base, SEED) if decoded.any() else ("", stage)


def printed(
    run: Run,
    figures: pd.DataFrame,
    names: Mapping[str, str],
    metric: str,
    split: str,
    role: str = "train",
) -> Printed:
    """What papers print on REFERENCE for one number of a row, on the same kind of split.

    Args:
        run: any run of the row; it need not be done.
        figures: published figures.
        names: {experiment: published method} where they differ.
        metric: of the published vocabulary; those of the classifier are the same for all maps.
        split: the split of ours.
        role: what it is, `train` or `val`.
    """
    method, stage = counterpart(run, figures, names)
    used = run.splits.get(split, {}).get("labels_used", role == "train")
    alike = (figures["dataset"] == REFERENCE) & (figures["metric"] == metric)
    if metric in ("f1", "map"):
        method, stage = published_name(run, names, figures["method"]), CLASSIFIER
        alike &= figures["split"].isin([role, UNSAID])
    else:
        alike &= (figures["split"] == role) & (figures["labels_at_test"] == _word(used))
    found = figures[alike & (figures["method"] == method) & (figures["stage"] == stage)]
    if (found["backbone"] == PREFERRED).any():
        found = found[found["backbone"] == PREFERRED]
    return Printed(
        _text(found),
        dict(zip(found["source"], found["value"])),
        tuple(found["backbone"].unique()),
        tuple(found["method"].unique()),
    )


def _text(found: pd.DataFrame) -> str:
    """The figure as printed, or the span of several that differ."""
    shown = found.get("printed", found["value"].map("{:g}".format))
    ordered = shown[found["value"].sort_values(kind="stable").index]
    texts = list(dict.fromkeys(ordered.astype(str)))
    return texts[0] if len(texts) == 1 else f"{texts[0]} … {texts[-1]}" if texts else ""


def _word(used: bool) -> str:
    return "yes" if used else "no"
