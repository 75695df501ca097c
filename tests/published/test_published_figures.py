"""The figures themselves: typed here by hand from the sources, and consistent with each other."""

import numpy as np
import pytest

from wsssbench import published

FIGURES = published.load()
V, C = "VOC2012", "COCO2014"
R50, R101, WR38 = "ResNet-50", "ResNet-101", "WideResNet-38"
EPM, CIFAR = "recurseed+edgepredictmix", "CIFAR-100"
NOVELTY = "Novelty of RecurSeed"
MIXERS = "Novelty of EdgePredictMix"
RESULTS = "Quantitative results"
SEEDS = "table of seeds and random walk"

# method, backbone, data set, split, stage, metric, part of the source, value
SPOTS = [
    ("cam+scg", R50, V, "train", "seed", "miou", NOVELTY, 58.0),
    ("cam+scg+pamr", R50, V, "train", "seed", "fn", NOVELTY, 0.194),
    ("recurseed-pamr", R50, V, "train", "decoder seed", "fp", NOVELTY, 0.196),
    ("recurseed", R50, V, "train", "seed", "miou", NOVELTY, 65.9),
    ("recurseed", R50, V, "train", "decoder seed", "miou", NOVELTY, 70.7),
    ("recurseed+saliency_grafting", R50, V, "unknown", "classification", "f1", MIXERS, 96.8),
    ("recurseed+cutmix", R50, V, "train", "decoder seed", "miou", MIXERS, 68.5),
    ("recurseed+classmix", R50, V, "train", "decoder seed", "miou", MIXERS, 71.2),
    (EPM, R50, V, "train", "decoder seed", "miou", MIXERS, 75.2),
    (EPM, R50, V, "train", "seed+rw", "miou", SEEDS, 76.7),
    ("conta", R50, V, "train", "seed+rw", "miou", SEEDS, 67.9),
    (EPM, R50, C, "val", "single-stage", "miou", RESULTS, 42.2),
    (EPM, R101, V, "test", "multi-stage", "miou", RESULTS, 73.6),
    ("recurseed", R101, C, "val", "multi-stage", "miou", RESULTS, 45.8),
    ("rca", "VGG-16", C, "val", "multi-stage", "miou", RESULTS, 36.8),
    ("afa", "MiT-B1", C, "val", "single-stage", "miou", RESULTS, 38.9),
    (EPM, "unknown", V, "train", "pseudo mask", "fn", "MARS", 0.108),
    ("deeplabv3", R101, C, "val", "fully supervised", "miou", "MARS", 61.8),
    ("deeplabv2", R101, V, "val", "fully supervised", "miou", "repository", 77.93),
    ("cam", "VGG-16", V, "val", "seed", "miou", "PSA README", 46.6),
    ("cam", WR38, V, "train", "seed", "miou", "submission", 48.0),
    ("affinitynet", WR38, V, "val", "seed+rw", "miou", "submission", 57.0),
    ("irnet", R50, V, "train", "instance masks", "ap50", "IRNet", 37.7),
    ("affinitynet+cda", WR38, V, "train", "seed+rw", "miou", "CDA README", 63.3),
    ("affinitynet", R50, V, "train", "seed+rw+crf", "miou", "table 2", 59.70),
    ("puzzlecam", "ResNeSt-101", V, "train", "seed+rw", "miou", "table 2", 71.92),
    ("seenet", R101, V, "test", "multi-stage", "miou", "table 3", 62.8),
    ("puzzlecam", "ResNeSt-269", V, "test", "multi-stage", "iou:person", "README", 70.7),
    ("seam", WR38, V, "train", "seed+crf", "miou", "issue 25", 56.83),
    ("seam", WR38, V, "val", "multi-stage", "miou", "codebase", 64.754),
    ("ssss", WR38, V, "test", "single-stage (no crf)", "miou", "README", 62.7),
    ("sipe", R50, C, "train", "seed", "miou", "repository", 35.05),
    ("sipe-gsc", R50, V, "train", "seed", "miou", "issue 10", 53.2),
    ("pmm", "unknown", C, "val", "multi-stage", "rank", "MS-COCO 2014 (val)", 27),
    ("pmm", "ScaleNet-101", V, "val", "seed", "miou", "table 1", 57.81),
    ("urn", "Res2Net-101", C, "val", "multi-stage", "miou", "URN", 41.5),
    ("sfc", R101, V, "test", "multi-stage", "miou", "listing", 72.5),
    ("sfc", R50, V, "train", "seed", "miou", "step 2700", 57.86),
    ("sfc", R50, V, "train", "prototype seed", "iou:cow", "eval_exp", 71.5),
    ("cosa", "ViT-B/16", V, "val", "single-stage (no crf)", "miou", "final Seg_vd", 76.185),
    ("cosa", "ViT-B/16", V, "val", "single-stage (no crf)", "miou", "28k, Seg_ps", 73.7),
    ("cosa", "ViT-B/16", C, "val", "auxiliary seed", "miou", "54k", 45.1),
    ("cosa", "ViT-B/16", C, "unknown", "pseudo mask", "decile_accuracy:5", "heat map", 24),
    ("afa", "MiT-B1", V, "val", "affinity seed", "miou", "iteration 18k", 65.2),
    ("cutmix", "PyramidNet-200", CIFAR, "test", "classification", "top1_error", "CutMix", 14.23),
    ("classmix", R101, V, "unknown", "semi-supervised", "miou", "1/50", 66.15),
    ("rrm", R101, V, "val", "multi-stage", "miou", "abstract", 66.3),
    ("cse", WR38, V, "train", "seed+rw", "miou", "issue 3", 66.9),
    ("irnet", R50, V, "train", "seed+rw", "fp:background", "issue 13", 0.121),
]  # fmt: skip


def of(method, backbone, dataset, split, stage, metric, source):
    """The rows with these words; the source only has to contain its part."""
    rows = published.find(
        FIGURES,
        method=method,
        backbone=backbone,
        dataset=dataset,
        split=split,
        stage=stage,
        metric=metric,
        asides=True,
    )
    return rows[rows["source"].str.contains(source, regex=False)]


@pytest.mark.parametrize("spot", SPOTS, ids=lambda spot: "-".join(map(str, spot)))
def test_figure_is_as_its_source_prints_it(spot):
    *words, value = spot
    assert list(of(*words)["value"].unique()) == [value]


def implied_background_iou(miou, fp, fn, classes=20):
    """IoU of the background, if mIoU averages over it and FP and FN do not (fractions)."""
    return (classes + 1) * miou - classes * (1 - fp - fn)


def triples():
    """Rows of one source that have mIoU, FP and FN: one line each, the three as fractions."""
    rows = FIGURES[(FIGURES["dataset"] == V) & FIGURES["metric"].isin(["miou", "fp", "fn"])]
    rows = rows.assign(
        value=np.where(rows["unit"] == "percent", rows["value"] / 100, rows["value"])
    )
    keys = ["source", "method", "label", "backbone", "split", "stage"]
    return rows.pivot(index=keys, columns="metric", values="value").dropna().reset_index()


@pytest.mark.parametrize(
    ("label", "background"),
    [
        ("RS ✗ SCG ✓ PAMR ✗", 0.840),
        ("RS ✗ SCG ✓ PAMR ✓", 0.833),
        ("RS ✓ SCG ✓ PAMR ✗", 0.872),
        ("RS ✓ SCG ✓ PAMR ✓", 0.859),
        ("RS ✓ SCG ✓ PAMR ✗ *", 0.894),
        ("RS ✓ SCG ✓ PAMR ✓ *", 0.947),
    ],
)
def test_background_iou_implied_by_the_recurseed_ablation(label, background):
    row = triples().set_index("label").loc[label]
    assert implied_background_iou(row.miou, row.fp, row.fn) == pytest.approx(background, abs=5e-4)


def test_every_row_with_fp_and_fn_implies_a_plausible_background():
    rows = triples()
    background = implied_background_iou(rows["miou"], rows["fp"], rows["fn"])
    assert len(rows) == 8
    assert background.between(0.75, 0.96).all()


def test_failed_irnet_run_states_the_background_that_its_means_imply():
    row = triples().set_index("label").loc["IRNet (failed run)"]
    words = "irnet", R50, V, "train", "seed+rw"
    stated = 1 - sum(
        of(*words, f"{x}:background", "issue 13")["value"].item() for x in ("fp", "fn")
    )
    assert implied_background_iou(row.miou, row.fp, row.fn) == pytest.approx(stated, abs=0.02)


@pytest.mark.parametrize(
    ("method", "backbone", "stage", "source", "mean"),
    [
        ("puzzlecam", "ResNeSt-101", "multi-stage", "Puzzle-CAM README", 67.7),
        ("puzzlecam", "ResNeSt-269", "multi-stage", "Puzzle-CAM README", 72.2),
        ("sfc", "ResNet-50", "prototype seed", "eval_exp.log", 63.13),
        ("sfc", "ResNet-50", "seed", "exp.log, step 2400", 59.66),
    ],
)
def test_classes_average_to_the_printed_mean(method, backbone, stage, source, mean):
    rows = published.find(FIGURES, asides=True, method=method, backbone=backbone, stage=stage)
    rows = rows[rows["source"].str.contains(source, regex=False)]
    classes = rows[rows["metric"].str.startswith("iou:")]
    assert set(classes["metric"]) == {f"iou:{name}" for name in published.vocabulary.CLASSES}
    assert classes["value"].mean() == pytest.approx(mean, abs=0.06)
    assert rows[rows["metric"] == "miou"]["value"].item() == mean


def test_differences_printed_in_the_recurseed_ablation():
    rows = FIGURES[FIGURES["source"].str.contains(NOVELTY, regex=False)]
    value = rows.set_index(["label", "metric"])["value"]
    printed = rows[rows["note"].str.contains("[↓↑]")]
    assert len(printed) == 6
    for row in printed.itertuples():
        sign = 1 if "↑" in row.note else -1
        step = sign * float(row.note.partition("↓" if sign < 0 else "↑")[2].partition(")")[0])
        before = value[row.label.replace("PAMR ✓", "PAMR ✗"), row.metric]
        assert row.value - before == pytest.approx(step, abs=1e-9)


def test_same_figure_in_two_sources_is_the_same():
    for file, words in {
        "sipe": {"method": "sipe", "backbone": "ResNet-101"},
        "afa": {"method": "afa", "stage": "single-stage"},
        "rs_epm": {"method": "recurseed+edgepredictmix", "stage": ["single-stage", "multi-stage"]},
    }.items():
        keys = ["backbone", "dataset", "split", "stage"]
        here = published.find(FIGURES, file=file, metric="miou", **words)
        slides = published.find(FIGURES, file="segmentation", metric="miou", **words)
        both = here.merge(slides, on=[*keys, "method"], suffixes=("", "_slides"))
        assert len(both) >= 3
        assert (both["value"] == both["value_slides"]).all()


def test_labels_at_test():
    masks = FIGURES[~FIGURES["stage"].isin(["classification", "localisation", "detection"])]
    training = masks[masks["split"].isin(["train", "train_aug"])]
    assert set(training["labels_at_test"]) == {"yes"}
    seeds = masks[masks["stage"].str.contains("seed") & ~masks["stage"].str.startswith("semi")]
    assert "no" not in set(seeds["labels_at_test"])
    assert "yes" not in set(FIGURES[FIGURES["split"] == "test"]["labels_at_test"])
    cosa = published.find(FIGURES, method="cosa", split="val", metric="miou", stage="single-stage")
    assert set(cosa["labels_at_test"]) == {"yes"}
    unmasked = FIGURES[FIGURES["source"].str.contains("Seg_ps")]
    assert len(unmasked) == 11
    assert set(unmasked["labels_at_test"]) == {"no"}


@pytest.mark.parametrize(
    ("words", "value", "mark"),
    [
        ({"method": "cam", "backbone": "WideResNet-38"}, 47.43, "[from memory, not re-read]"),
        ({"method": "icd", "supervision": "I+S"}, 67.8, "[from memory, not re-read]"),
        ({"method": "amn", "dataset": C}, 44.7, "[inferred]"),
        ({"method": "recurseed+cda", "metric": "f1"}, 96.0, "[inferred]"),
        ({"method": "cosa", "dataset": C, "stage": "seed"}, 50.4, "[subset]"),
        ({"method": "puzzlecam", "stage": "seed"}, 62.45, "[subset]"),
    ],
)
def test_doubts_stand_in_the_note(words, value, mark):
    rows = published.find(FIGURES, asides=True, **words)
    assert rows[rows["value"] == value]["note"].str.contains(mark, regex=False).all()
    assert (rows["value"] == value).any()
