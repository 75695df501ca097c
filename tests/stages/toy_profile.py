"""A params.yaml for the toy folder: the whole pipeline in seconds."""

from pathlib import Path

import yaml

PARAMS = {
    "profile": "toy",
    "data": {"source": "folder", "root": "data/toy", "train": "train", "val": "val"},
    "model": {"backbone": "tiny", "weights": "none", "output_stride": 8},
    "train": {
        "epochs": 2,
        "batch_size": 4,
        "optimizer": "adamw",
        "lr": 0.003,
        "lr_new": 0.003,
        "crop": 32,
        "resize": [32, 40],
    },
    "pseudo_masks": {"scales": [1.0, 0.5], "threshold": 0.3},
    "random_walk": {"radius": 3, "walk_radius": 3, "log2_steps": 2, "train": {"epochs": 2}},
    "segment": {"width": 16, "scales": [1.0], "train": {"epochs": 2}},
    "evaluate": {"thresholds": [0.1, 0.9, 0.1], "boundary_px": 2, "bootstrap": 50},
    "machine": {"device": "cpu", "workers": 0},
    "grid": {"experiments": ["cam"], "seeds": [0], "multi_stage": [], "upper_bound": []},
    "experiments": {"cam": {"title": "CAM", "method": "cam"}},
    "report": {"gallery": 1},
}


def write_params(folder: Path, **sections) -> Path:
    """Write params.yaml; `sections` replace whole sections, or keys of sections given as dicts."""
    params = {key: dict(v) if isinstance(v, dict) else v for key, v in PARAMS.items()}
    for name, value in sections.items():
        old = params.get(name)
        params[name] = {**old, **value} if isinstance(old, dict) else value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path
