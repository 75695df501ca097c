"""The words a published figure may be described with, each with its meaning.

A new paper, backbone or kind of mask is one line here; a word that is not here stops `load`.
"""

import re
from collections.abc import Iterable

METHODS = {
    "baseline": "the same network without the augmentation it is compared with",
    "cam": "plain class activation maps",
    "scg": "self-correlation map generating",
    "pamr": "pixel-adaptive mask refinement",
    "dense_crf": "fully connected CRF",
    "random_walk": "affinity network and random walk, any variant",
    "recurseed": "RecurSeed (RS)",
    "certainmix": "mixer of the first version of RS+EPM",
    "edgepredictmix": "EdgePredictMix (EPM)",
    "mars": "MARS, on top of another method's masks",
    "cutmix": "CutMix",
    "saliency_grafting": "Saliency Grafting",
    "cda": "Context Decoupling Augmentation; alone: CDA on IRNet, as comparison tables print it",
    "classmix": "ClassMix",
    "cowmix": "CowMix",
    "puzzlemix": "Puzzle Mix",
    "copypaste": "Copy-Paste",
    "mixup": "Mixup",
    "mixup_cam": "Mixup-CAM",
    "cutout": "Cutout",
    "manifold_mixup": "Manifold Mixup",
    "puzzlecam": "Puzzle-CAM",
    "seam": "SEAM",
    "pmm": "Pseudo-mask Matters",
    "urn": "URN, follow-up of PMM",
    "sfc": "Shared Feature Calibration",
    "sipe": "SIPE",
    "gsc": "SIPE's consistency loss",
    "cosa": "CoSA",
    "afa": "AFA",
    "ssss": "single-stage semantic segmentation (1-stage-wseg)",
    "affinitynet": "AffinityNet (PSA)",
    "irnet": "IRNet",
    "rrm": "RRM",
    "drs": "DRS",
    "amr": "AMR",
    "cpn": "CPN",
    "rib": "RIB",
    "cse": "OC-CSE",
    "icd": "ICD",
    "conta": "CONTA",
    "rca": "RCA",
    "amn": "AMN",
    "dsrg": "DSRG",
    "seenet": "SeeNet",
    "ficklenet": "FickleNet",
    "advcam": "AdvCAM",
    "recam": "ReCAM",
    "clip_es": "CLIP-ES",
    "deeplabv2": "DeepLabV2, trained on true masks",
    "deeplabv3": "DeepLabV3+, trained on true masks",
}
"""Parts of a method id: `a+b` is a with b added, `a-b` is a without its part b."""

BACKBONES = {
    name: name
    for name in (
        *("ResNet-50", "ResNet-101", "ResNeSt-50", "ResNeSt-101", "ResNeSt-269", "Res2Net-101"),
        *("ScaleNet-101", "WideResNet-38", "PyramidNet-200", "VGG-16", "Xception"),
        *("MiT-B1", "ViT-B/16"),
    )
} | {"unknown": "not stated in what could be read"}

SUPERVISION = {
    "I": "image-level labels",
    "I+S": "image-level labels and external saliency maps",
    "I+E": "image-level labels and another external model, such as CLIP",
    "B": "boxes",
    "P": "true masks of a part of the images",
    "F": "true masks of all images",
    "unknown": "not stated in what could be read",
}

DATASETS = {
    "VOC2012": "PASCAL VOC 2012, 20 classes",
    "COCO2014": "MS COCO 2014, 80 classes",
    "VOC": "PASCAL VOC, year not stated",
    "COCO": "MS COCO, year not stated",
    "LVIS": "LVIS",
    "Cityscapes": "Cityscapes",
    "ImageNet": "ImageNet-1k",
    "CIFAR-100": "CIFAR-100",
    "CUB": "Caltech-UCSD Birds",
}

SPLITS = {
    "train": "training images (VOC 2012: 1464)",
    "train_aug": "VOC 2012 training images with those of SBD (10582)",
    "val": "validation images",
    "test": "test images (VOC 2012: evaluation server)",
    "unknown": "not stated in what could be read",
}

STAGES = {
    "seed": "activation maps of the classifier or their direct successor, scored as masks",
    "decoder seed": "maps of a segmentation decoder trained along, absent classes removed by label",
    "prototype seed": "similarity to class prototypes, scored as masks",
    "auxiliary seed": "activation maps of an earlier layer, scored as masks",
    "affinity seed": "activation maps after one step over an affinity learnt along",
    "seed+crf": "seed after a dense CRF",
    "seed+rw": "seed after a trained random walk (AffinityNet, IRNet)",
    "seed+rw+crf": "the same after a dense CRF",
    "pseudo mask": "masks handed to a segmentation network, made in a way not listed above",
    "single-stage": "prediction of a network trained in one stage, post-processed as in its source",
    "single-stage (no crf)": "the same, stated to be without CRF",
    "multi-stage": "prediction of a segmentation network trained on pseudo masks",
    "multi-stage (no crf)": "the same, stated to be without CRF",
    "fully supervised": "prediction of a segmentation network trained on true masks",
    "fully supervised (no crf)": "the same, stated to be without CRF",
    "semi-supervised": "prediction of a network trained on true masks of a part of the images",
    "classification": "image-level prediction",
    "localisation": "one box per image from activation maps",
    "detection": "boxes",
    "instance masks": "a mask per object",
}

METRICS = {
    "miou": "mean IoU over all classes and the background",
    "fp": "mean over the foreground classes of wrongly claimed pixels / union",
    "fn": "mean over the foreground classes of missed pixels / union",
    "iou": "IoU of the class after the colon",
    "f1": "F1 of the image labels",
    "map": "mean average precision",
    "image_ap": "average precision over the classes of an image, mean over images",
    "top1_error": "share of images whose first guess is wrong",
    "localisation_accuracy": "share of images localised",
    "ap50": "average precision of instance masks at IoU 0.5",
    "mask_ap_gain": "average precision of masks, gain over the best earlier method",
    "pixel_accuracy": "share of pixels with the right class",
    "decile_accuracy": "share of right pixels in the tenth of the confidence range after the colon",
    "rank": "place in a public listing",
}

UNITS = {"percent": "0 to 100", "fraction": "0 to 1", "count": "whole number from 1"}
RANGES = {"percent": (0, 100), "fraction": (0, 1), "count": (1, float("inf"))}

LABELS_AT_TEST = {
    "yes": "true image labels took part in the prediction that was scored",
    "no": "they did not",
    "unknown": "not stated in what could be read",
}

MARKS = {
    "inferred": "concluded from what could be read, not stated there",
    "from memory, not re-read": "to be checked in the paper before it is quoted",
    "subset": "scored on a part of the split",
    "issue report": "a run reported in an issue thread, not the published one",
    "log check": "a check during training, by another protocol than the result's",
}
"""What may stand in square brackets in a note."""

ASIDES = ("issue report", "log check")
"""Marks of figures that are no published result: no table sets ours beside them."""

REMARKS = {
    "cosa": "CoSA's published figures come from the released configuration: neither perplexity "
    "weights nor contrastive separation, fixed thresholds (our preset: released, not paper). Those "
    "that its paper and README print for val used the true image labels at test time.",
}
"""Of a method's figures as a whole; every table that prints one of them says so."""

STATUSES = {
    "verified": "our run agrees with the published figure",
    "not verified": "our run does not agree, or too little was run to tell; the reason is given",
    "not run": "no run of ours on this data set; the reason is given",
}

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of PASCAL VOC, in the order of their ids."""

DETAILS = {
    **dict.fromkeys(("iou", "fp", "fn"), CLASSES),
    "decile_accuracy": tuple(str(tenth) for tenth in range(1, 11)),
}
"""What may follow the colon of a metric."""


def parts(method: str) -> list[str]:
    """The names a method id is made of: `recurseed+cda` is recurseed and cda."""
    return re.split("[+-]", method)


def remarks(methods: Iterable[str]) -> list[str]:
    """The remarks on these methods, each once."""
    names = (name for method in methods for name in parts(method))
    return list(dict.fromkeys(REMARKS[name] for name in names if name in REMARKS))


def marks(note: str) -> list[str]:
    """What stands in square brackets in a note."""
    return re.findall(r"\[(.*?)\]", note)
