"""EdgePredictMix (Jo, Yu and Kim, 2022, with RecurSeed): ClassMix's cut with masks that know their
edges and leave uncertain pixels out.

The mixing is ClassMix's: the source's ignored pixels are never pasted, the base's are kept. What
sets it apart is the mask: decoder, PAMR, certain filter and edge prediction, which is the refiner's
work. No training code was released; the composition was measured in the authors' figure.
Expected on RecurSeed, VOC 2012 train: F1 95.2 (+0.5), mIoU 75.2 (+4.5).
"""

from wsssbench.mixing.classmix import ClassMix


class EdgePredictMix(ClassMix):
    """ClassMix on edge-predicted masks, with the same settings."""

    refiner = "ep"
