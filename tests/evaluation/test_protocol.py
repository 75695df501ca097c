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


def test_argmax_has_no_holdout():
    segment = changed(threshold_rule="argmax", threshold=0.0, stage="segment", conf_threshold=None)
    assert Protocol.from_dict(json.loads(json.dumps(segment.to_dict()))) == segment
    with pytest.raises(UserError, match="name the split"):
        dataclasses.replace(segment, holdout="small")


def test_stage_is_the_seed_unless_said():
    values = FIXED.to_dict()
    assert values.pop("stage") == "seed"
    assert Protocol.from_dict(values) == FIXED  # a record from before there were stages


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
