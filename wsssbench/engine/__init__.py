"""Training and inference of any method: one loop, checkpoints, devices. No method is named here."""
