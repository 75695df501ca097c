import pytest

from wsssbench.reporting.protocols import differing, in_short, in_words, protocol, protocols
from wsssbench.reporting.records import Run

BASE = {
    "threshold_rule": "fixed", "threshold": 0.4, "scales": [0.5, 1.0], "flip": True, "crf": False,
    "labels_used": {"train": True, "val": False}, "conf_threshold": 0.3, "map_stride": 2,
    "initial_weights": "abc", "refinement": [], "ema": False}  # fmt: skip
DATA = {"dataset": "scenes", "content_hash": "123", "weights": "imagenet", "weights_hash": "abc"}


def run(seed=0, provenance=None, **changes):
    record = {"protocol": BASE | changes, "splits": {"train": {"images": 4, "labels_used": True}}}
    known = DATA | (provenance or {})
    return Run("cam", seed, "", "done", record=record, provenance=known)


def test_equal_protocols_share_a_letter():
    assert {k: len(v) for k, v in protocols([run(0), run(1)]).items()} == {"A": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.5},
        {"scales": [1.0]},
        {"crf": True},
        {"labels_used": {"train": True, "val": True}},
        {"initial_weights": "def"},
        {"provenance": {"content_hash": "456"}},
        {"provenance": {"dataset": "msrc17"}},
    ],
)
def test_a_difference_of_protocol_separates(change):
    groups = protocols([run(0), run(1, **change), run(2)])
    assert [len(members) for members in groups.values()] == [2, 1]
    (name,) = differing(groups)
    assert name in (change.get("provenance") or change)


@pytest.mark.parametrize("change", [{"refinement": ["pamr"]}, {"ema": True}])
def test_a_difference_of_recipe_does_not(change):
    assert list(protocols([run(0), run(1, **change)])) == ["A"]


def test_thresholds_that_a_rule_chose_are_results_not_protocol():
    chosen = {"threshold_rule": "holdout", "holdout": "dev"}
    groups = protocols([run(0, threshold=0.41, **chosen), run(1, threshold=0.52, **chosen)])
    assert list(groups) == ["A"]
    assert "threshold" not in protocol(groups["A"][0])
    other = run(0, threshold=0.41, conf_threshold=0.9, **chosen)
    assert list(protocols([*groups["A"], other])) == ["A", "B"]


def test_a_class_threshold_that_a_rule_chose_is_a_result_and_is_said_to_be():
    rule = {"conf_rule": "best CF1 on train"}
    runs = [run(0, conf_threshold=0.31, **rule), run(1, conf_threshold=0.4, **rule)]
    assert list(protocols(runs)) == ["A"]
    words = dict(in_words(runs))["Classes at test"]
    assert words.endswith("(probability, best CF1 on train).")


def test_kinds_of_maps_share_a_protocol():
    assert list(protocols([run(0, maps="cam"), run(0, maps="scg", refinement=["scg"])])) == ["A"]


def test_runs_that_are_not_done_have_no_protocol():
    assert protocols([Run("cam", 0, "", "not run")]) == {}


def test_words():
    words = dict(in_words([run()]))
    rule = "Fixed threshold 0.40, from the profile, the same for all experiments and seeds."
    assert words["Threshold rule"] == rule
    assert words["Splits scored"] == "train (4 images, image labels used)."
    assert words["Views"] == "Scales 0.5, 1, each also mirrored; maps stored at stride 2."
    assert words["Initial weights"] == "imagenet (hash abc)."
    assert (
        "val: those that the classifier itself finds (probability ≥ 0.3)"
        in (words["Classes at test"])
    )
    assert words["CRF"] == "None."


def test_words_of_other_settings():
    changed = {"threshold_rule": "holdout", "holdout": "dev", "background": "power 2", "crf": True}
    words = dict(in_words([run(flip=False, **changed)]))
    assert "chosen on hold-out dev" in words["Threshold rule"]
    assert "to the power 2" in words["Background"]
    assert words["CRF"] == "Dense CRF applied."
    oracle = dict(in_words([run(threshold_rule="oracle")]))
    assert "these masks were used" in oracle["Threshold rule"]
    assert "not mirrored" in words["Views"]


def test_the_short_form_names_data_threshold_views_crf_and_weights():
    assert in_short(protocol(run())) == (
        "scenes · fixed threshold 0.40 · 4 views · no CRF · initial weights abc"
    )


def test_words_survive_an_empty_record():
    empty = Run("cam", 0, "", "done", record={"splits": {"train": {}}})
    assert dict(in_words([empty]))["Data set"].startswith("unknown")
    assert in_short(protocol(empty)).startswith("unknown data")
