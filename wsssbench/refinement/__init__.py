"""Refinements of score maps without parameters: one published idea per file."""

from wsssbench.refinement.pamr import pamr
from wsssbench.refinement.scg import scg

__all__ = ["pamr", "scg"]
