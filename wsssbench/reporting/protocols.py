"""Which rows may stand in one table: the protocol of a run, its letter, and the same in words."""

import json
from collections.abc import Iterable
from typing import Any

from wsssbench.evaluation.protocol import PART_OF_THE_METHOD
from wsssbench.reporting.records import Run

DATA = ("dataset", "content_hash")
STAGES = {
    "seed": "pseudo-masks from score maps of the method's own network",
    "crf": "the same after a dense CRF",
    "ppmg": "proportional pseudo-masks (PPMG) of the same score maps",
    "rw": "pseudo-masks after a random walk along learnt affinities",
    "rw+crf": "pseudo-masks after a random walk and a dense CRF",
    "segment": "predictions of a segmentation network trained on pseudo-masks, for the upper bound "
    "on true masks",
    "segment+crf": "predictions of such a segmentation network after a dense CRF",
}


def protocol(run: Run) -> dict[str, Any]:
    """What two runs must share to stand in one column."""
    fields = dict(run.record.get("protocol", {}))
    # Parts of the method are shown per row; a threshold that a rule chose is a result of the run.
    chosen = () if fields.get("threshold_rule", "fixed") == "fixed" else ("threshold",)
    if fields.get("conf_rule", "fixed") != "fixed":
        chosen = (*chosen, "conf_threshold")
    left_out = {*PART_OF_THE_METHOD, "maps", *chosen}
    fields = {name: value for name, value in fields.items() if name not in left_out}
    return {name: run.provenance.get(name) for name in DATA} | fields


def protocols(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Finished runs by protocol: {"A": runs, "B": …}, letters in order of appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.status == "done":
            groups.setdefault(json.dumps(protocol(run), sort_keys=True), []).append(run)
    return {chr(ord("A") + i): members for i, members in enumerate(groups.values())}


def differing(groups: dict[str, list[Run]]) -> list[str]:
    """Names of the fields in which protocols differ."""
    each = [protocol(members[0]) for members in groups.values()]
    names = dict.fromkeys(name for fields in each for name in fields)
    return [name for name in names if any(f.get(name) != each[0].get(name) for f in each)]


def in_short(fields: dict[str, Any]) -> str:
    """One line for a table's caption."""
    views = len(_list(fields.get("scales"))) * (2 if fields.get("flip") else 1)
    parts = [
        str(fields.get("dataset") or "unknown data"),
        _threshold(fields).split(",")[0].lower(),
        f"{views} views" if views != 1 else "1 view",
        "dense CRF" if fields.get("crf") else "no CRF",
        f"initial weights {str(fields.get('initial_weights') or 'none')[:12]}",
    ]
    return " · ".join(parts)


def in_words(runs: list[Run]) -> list[tuple[str, str]]:
    """The protocol of one group of runs as (term, sentence), for the protocol page."""
    fields = runs[0].record.get("protocol", {})
    known = runs[0].provenance
    name = known.get("dataset", "unknown")
    trained = f"{known.get('train_split', 'train')} ({known.get('train_images', '?')} images)"
    stage = STAGES[fields.get("stage") or "seed"]
    return [
        ("Data set", f"{name}{_hash(known, 'content_hash')}; trained on {trained}."),
        ("Splits scored", "; ".join(_split(*item) for item in runs[0].splits.items()) + "."),
        ("Stage", f"{stage}."),
        ("Threshold rule", f"{_threshold(fields)}."),
        ("Background", _background(fields)),
        ("Views", _views(fields)),
        ("Classes at test", _gate(fields)),
        ("CRF", "Dense CRF applied." if fields.get("crf") else "None."),
        ("Ignored pixels", f"{fields.get('ignored_pixels', '255 left out')}."),
        ("Initial weights", _weights(known)),
        ("Checkpoint", _checkpoint(fields)),
    ]


def _hash(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return f" (hash {str(value)[:12]})" if value and value != "none" else ""


def _weights(known: dict[str, Any]) -> str:
    name = known.get("weights") or "none"
    return (
        "None, trained from scratch."
        if name == "none"
        else f"{name}{_hash(known, 'weights_hash')}."
    )


def _threshold(fields: dict[str, Any]) -> str:
    value = fields.get("threshold")
    if fields.get("threshold_rule") == "argmax":
        return "None: the background is a class of the network like the others"
    if fields.get("threshold_rule", "fixed") == "fixed":
        at = "" if value is None else f" {value:.2f}"
        return f"Fixed threshold{at}, from the profile, the same for all experiments and seeds"
    if fields["threshold_rule"] == "oracle":
        return "Threshold best on the training masks, so these masks were used"
    return (
        f"Threshold chosen on hold-out {fields.get('holdout')}, a small labelled list "
        "that is neither the training nor the validation split"
    )


def _split(split: str, part: dict[str, Any]) -> str:
    labels = "image labels used" if part.get("labels_used") else "no image labels"
    return f"{split} ({part.get('images', '?')} images, {labels})"


def _background(fields: dict[str, Any]) -> str:
    rule = fields.get("background", "threshold")
    if fields.get("threshold_rule") == "argmax":
        return "A pixel is of the class with the highest score."
    if rule == "threshold":
        return "A pixel is background where no class exceeds the threshold."
    power = str(rule).removeprefix("power").strip() or "α"
    return f"A pixel is background where (1 − largest class score) to the power {power} is largest."


def _views(fields: dict[str, Any]) -> str:
    scales = ", ".join(f"{s:g}" for s in _list(fields.get("scales")))
    mirrored = ", each also mirrored" if fields.get("flip") else ", not mirrored"
    stored = f"; maps stored at stride {fields.get('map_stride', 1)}"
    if fields.get("threshold_rule") == "argmax":
        stored = ""
    return f"Scales {scales or '1'}{mirrored}{stored}."


def _gate(fields: dict[str, Any]) -> str:
    used = fields.get("labels_used") or {}
    given = ", ".join(split for split, flag in used.items() if flag)
    other = ", ".join(split for split, flag in used.items() if not flag)
    if fields.get("threshold_rule") == "argmax" and not given:
        return "All: no image labels are used, and nothing rules a class out."
    parts = [f"{given}: those of the image-level labels"] if given else []
    if other:
        limit = fields.get("conf_threshold")
        rule = fields.get("conf_rule", "fixed")
        at = "" if limit is None else f" ≥ {limit:g}"
        at = at if rule == "fixed" else f", {rule}"
        parts.append(f"{other}: those that the classifier itself finds (probability{at})")
    return "; ".join(parts) + "." if parts else "Not recorded."


def _checkpoint(fields: dict[str, Any]) -> str:
    name = fields.get("checkpoint", "last")
    return "The last one; none was picked by its score." if name == "last" else f"{name}."


def _list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else []
