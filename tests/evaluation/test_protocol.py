import dataclasses
import json

import pytest

from wsssbench.errors import UserError
from wsssbench.evaluation import Protocol

FIXED = Protocol("fixed", 0.3, scales=(1.0, 0.5), flip=True, initial_weights="imagenet")


def changed(**values):
    return dataclasses.replace(FIXED, **values)


def test_survives_json():
    protocol = changed(refinement=("scg", "pamr"), labels_used={"train": True, "val": False})
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_lists_and_tuples_are_the_same_protocol():
    assert changed(scales=[1, 0.5]) == FIXED


@pytest.mark.parametrize(
    "difference",
    [
        {"threshold": 0.4},
        {"threshold_rule": "oracle"},
        {"threshold_rule": "holdout", "holdout": "small"},
        {"background": "power 4"},
        {"scales": (1.0,)},
        {"flip": False},
        {"map_stride": 4},
        {"labels_used": {"train": True, "val": True}},
        {"conf_threshold": 0.34},
        {"crf": True},
        {"stage": "rw"},
        {"threshold_rule": "argmax"},
        {"checkpoint": "best"},
        {"initial_weights": "coco"},
        {"ignored_pixels": "255 as background"},
    ],
)
def test_rows_of_different_protocols_do_not_share_a_column(difference):
    other = changed(**difference)
    assert other.key() != FIXED.key()
    assert any(line.startswith(next(iter(difference))) for line in FIXED.differences(other))


def test_the_method_itself_and_an_outcome_of_the_rule_may_differ_within_a_column():
    assert changed(refinement=("scg",), ema=True).key() == FIXED.key()
    first = changed(threshold_rule="holdout", holdout="small", threshold=0.3)
    assert first.key() == dataclasses.replace(first, threshold=0.45).key()
    assert hash(first.key()) == hash(dataclasses.replace(first, threshold=0.45).key())
    assert FIXED.differences(changed(refinement=("scg",))) == []


def test_differences_read_like_text():
    assert FIXED.differences(changed(scales=(1.0,))) == ["scales: 1.0, 0.5 against 1.0"]


def test_description_is_one_line_that_names_everything():
    text = changed(crf=True, refinement=("scg",), conf_threshold=0.34).describe()
    assert "\n" not in text
    for part in ("0.3, fixed in advance", "scales 1.0, 0.5 and mirrored", "stride 1", "scg", "CRF"):
        assert part in text
    for part in ("labels used on train, not on val", "probability 0.34", "last", "imagenet", "255"):
        assert part in text
    assert "no CRF" in FIXED.describe()
    assert "hold-out small" in changed(threshold_rule="holdout", holdout="small").describe()
    assert "oracle" in changed(threshold_rule="oracle").describe()
    assert "(1 - max)^4" in changed(background="power 4").describe()


def test_argmax_has_no_threshold():
    segment = changed(threshold_rule="argmax", threshold=0.0, stage="segment", conf_threshold=None)
    assert segment.key() == dataclasses.replace(segment, threshold=0.4).key()
    assert Protocol.from_dict(json.loads(json.dumps(segment.to_dict()))) == segment
    text = segment.describe()
    assert text.startswith("stage segment; the background is a class like the others; ")
    assert "threshold" not in text
    assert "probability" not in text
    with pytest.raises(UserError, match="name the split"):
        dataclasses.replace(segment, holdout="small")


def test_stage_is_the_seed_unless_said():
    values = FIXED.to_dict()
    assert values.pop("stage") == "seed"
    assert Protocol.from_dict(values) == FIXED  # a record from before there were stages
    assert FIXED.describe().startswith("stage seed; ")
    assert FIXED.differences(changed(stage="rw+crf")) == ["stage: seed against rw+crf"]


def test_wrong_values_are_named():
    with pytest.raises(UserError, match="'holdout'"):
        changed(threshold_rule="hold-out")
    with pytest.raises(UserError, match=r"background rule 'treshold'.*'threshold'"):
        changed(background="treshold")
    with pytest.raises(UserError, match="name the split"):
        changed(threshold_rule="holdout")
    with pytest.raises(UserError, match="name the split"):
        changed(holdout="small")
    with pytest.raises(UserError, match=r"'scale'.*'scales'"):
        Protocol.from_dict({**FIXED.to_dict(), "scale": 1})
    with pytest.raises(UserError, match="lacks threshold_rule"):
        Protocol.from_dict({"threshold": 0.3})
