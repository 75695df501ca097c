"""Invented files of a RecurSeed training: history.csv with shares of pixels, watch.csv (seeded)."""

import numpy as np
import pandas as pd

EPOCHS, RS_START, MIX_START = 12, 4, 8
SHARES = ["certain_foreground", "certain_background", "ignored", "rs_mean"]
MIXED = ["loss_cls_mix", "loss_rec_mix", "loss_seg_mix", "mix_certain_foreground", "mix_ignored",
         "pasted"]  # fmt: skip


def rs_history(rng, mixing=True, shrink=0.0):
    """history.csv of RecurSeed; `shrink` is the foreground's loss per epoch."""
    epochs = np.arange(1, EPOCHS + 1)
    loss = np.exp(-epochs / 4) + 0.02 * rng.random(EPOCHS)
    ignored = 0.5 * np.exp(-epochs / 9)
    foreground = np.clip(0.26 - shrink * (epochs - RS_START) + 0.01 * rng.random(EPOCHS), 0.01, 1)
    table = pd.DataFrame({
        "epoch": epochs, "lr": 0.1 * (1 - epochs / (EPOCHS + 1)) ** 0.9, "loss": loss,
        "loss_cls": loss, "loss_rec": 0.03, "loss_seg": 0.4, "loss_cls_mix": 0.0,
        "loss_rec_mix": 0.02, "loss_seg_mix": 0.3, "certain_foreground": foreground,
        "certain_background": 1 - foreground - ignored, "ignored": ignored, "rs_mean": 0.3,
        "mix_certain_foreground": 1.25 * foreground, "mix_ignored": 0.8 * ignored, "pasted": 0.2,
        "seconds": 2.0})  # fmt: skip
    table.loc[table["epoch"] < RS_START, ["loss_rec", "loss_seg", *SHARES]] = np.nan
    table.loc[table["epoch"] < (MIX_START if mixing else np.inf), MIXED] = np.nan
    return table


def watch(rng, kinds, gain=0.0):
    """watch.csv: seed quality per epoch and kind of maps on 8 images."""
    lines = []
    for place, kind in enumerate(kinds):
        for epoch in range(1, EPOCHS + 1):
            rise = 1 - np.exp(-epochs_since(epoch) / 4)
            miou = 0.34 + (0.12 + gain + 0.03 * place) * rise + 0.008 * rng.standard_normal()
            fp, fn = 0.42 - 0.16 * rise + 0.02 * place, 0.26 - 0.05 * rise - 0.03 * place
            scores = {"miou": miou, "fp": fp + 0.008 * rng.standard_normal(), "fn": fn}
            oracle = {f"oracle_{name}": value for name, value in scores.items()}
            lines.append({"epoch": epoch, "maps": kind, "images": 8, "threshold": 0.4, **scores,
                          "oracle_threshold": 0.35, **oracle})  # fmt: skip
    return pd.DataFrame(lines)


def epochs_since(epoch):
    return epoch if epoch < RS_START else 1.5 * epoch
