"""Refinements of score maps without parameters: one published idea per file."""

from wsssbench.refinement.dense_crf import dense_crf
from wsssbench.refinement.pamr import pamr
from wsssbench.refinement.random_walk import random_walk
from wsssbench.refinement.scg import scg

__all__ = ["dense_crf", "pamr", "random_walk", "scg"]
