"""wsssbench: weakly supervised semantic segmentation methods under one protocol.

Lower layers (data, models, refinement, mixing, evaluation) know plain tensors only; methods use
models, the engine trains any method, reporting reads files. `stages` joins them.
"""

__version__ = "0.1.0"
