import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jobs
import pandas as pd
import pytest
import torch

from wsssbench.engine import checkpoint
from wsssbench.engine.train import train
from wsssbench.errors import UserError
from wsssbench.methods.cosa import CoSA
from wsssbench.params import MachineSettings


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(path):
    return torch.load(path, weights_only=True)


def assert_equal(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=tolerance, msg=name)


def test_writes_weights_history_and_provenance(toy_root, tmp_path):
    out = tmp_path / "run" / "train"
    path = train(jobs.job(toy_root, out))
    history = pd.read_csv(out / "history.csv")
    assert history.epoch.tolist() == [1, 2, 3]
    assert {"lr", "loss", "loss_cls", "confidence", "seconds"} <= set(history.columns)
    record = json.loads((out / "provenance.json").read_text())
    assert record["dataset"] == "toy"
    assert record["precision"] == "float32"
    assert record["peak_memory_mib"] > 0
    assert path.exists()
    assert not checkpoint.path_for(out).exists()


def test_what_only_some_steps_record_is_their_mean(toy_root, tmp_path):
    """CoSA's swap begins in the second of epoch 2's two steps; its lower threshold stays at .25."""
    kind = partial(CoSA, warmup=0.4, decoder_width=8, views=(1.0,))
    train(jobs.job(toy_root, tmp_path / "r" / "train", kind=kind))
    history = pd.read_csv(tmp_path / "r" / "train" / "history.csv")
    assert history.low.tolist() == pytest.approx([float("nan"), 0.25, 0.25], nan_ok=True)


def test_loss_falls(toy_root, tmp_path):
    train(jobs.job(toy_root, tmp_path / "r" / "train", epochs=12))
    loss = pd.read_csv(tmp_path / "r" / "train" / "history.csv").loss
    assert loss.iloc[-1] < 0.6 * loss.iloc[0]


def test_poly_rate_in_history(toy_root, tmp_path):
    train(jobs.job(toy_root, tmp_path / "r" / "train"))
    rates = pd.read_csv(tmp_path / "r" / "train" / "history.csv").lr
    # 9 images, batches of 4: 2 steps an epoch, the last ones are 1, 3, 5 of 6
    assert rates.tolist() == pytest.approx([0.05 * (1 - s / 6) ** 0.9 for s in (1, 3, 5)])


def test_same_seed_same_weights(toy_root, tmp_path):
    first = weights(train(jobs.job(toy_root, tmp_path / "a" / "train")))
    second = weights(train(jobs.job(toy_root, tmp_path / "b" / "train")))
    assert_equal(first, second)
    other = weights(train(replace(jobs.job(toy_root, tmp_path / "c" / "train"), seed=1)))
    assert not torch.equal(first["network.classifier.weight"], other["network.classifier.weight"])


def test_workers_do_not_change_the_result(toy_root, tmp_path):
    first = weights(train(jobs.job(toy_root, tmp_path / "a" / "train", epochs=1)))
    machine = MachineSettings(device="cpu", workers=2)
    second = train(jobs.job(toy_root, tmp_path / "b" / "train", epochs=1, machine=machine))
    assert_equal(first, weights(second))


def test_a_method_is_told_the_labels_before_training(toy_root, tmp_path):
    kept = weights(train(jobs.job(toy_root, tmp_path / "r" / "train", kind=jobs.Counting, ema=0.9)))
    assert kept["counts"].tolist() == jobs.job(toy_root, tmp_path).dataset.labels.sum(0).tolist()


def test_an_image_bank_is_the_same_after_an_interruption(toy_root, tmp_path):
    whole = weights(train(jobs.job(toy_root, tmp_path / "a" / "train", kind=jobs.Counting)))
    out = tmp_path / "b" / "train"
    with pytest.raises(KeyboardInterrupt):
        train(jobs.job(toy_root, out, kind=jobs.InterruptedCounting))
    assert_equal(whole, weights(train(jobs.job(toy_root, out, kind=jobs.Counting))))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_interrupted_run_resumes_bitwise(toy_root, tmp_path, ema):
    whole = weights(train(jobs.job(toy_root, tmp_path / "a" / "train", ema=ema)))
    out = tmp_path / "b" / "train"
    with pytest.raises(KeyboardInterrupt):
        train(jobs.job(toy_root, out, kind=jobs.Interrupted, ema=ema))
    assert checkpoint.path_for(out).exists()
    assert not (out / "model.pt").exists()
    assert pd.read_csv(out / "history.csv").epoch.tolist() == [1, 2]
    assert_equal(whole, weights(train(jobs.job(toy_root, out, ema=ema))))
    assert pd.read_csv(out / "history.csv").epoch.tolist() == [1, 2, 3]


def test_what_is_trained_is_kept_until_the_recipe_changes(toy_root, tmp_path):
    out = tmp_path / "r" / "train"
    path = train(jobs.job(toy_root, out))
    before = path.stat().st_mtime_ns
    assert train(jobs.job(toy_root, out)) == path
    assert path.stat().st_mtime_ns == before
    train(jobs.job(toy_root, out, epochs=2))
    assert path.stat().st_mtime_ns > before
    assert len(pd.read_csv(out / "history.csv")) == 2


def test_what_a_method_remembers_is_resumed_too(toy_root, tmp_path):
    changes = {"batch_size": 3, "epochs": 3}
    whole = weights(
        train(jobs.job(toy_root, tmp_path / "a" / "train", kind=jobs.WithBank, **changes))
    )
    out = tmp_path / "b" / "train"
    with pytest.raises(KeyboardInterrupt):
        train(jobs.job(toy_root, out, kind=jobs.InterruptedWithBank, **changes))
    assert_equal(whole, weights(train(jobs.job(toy_root, out, kind=jobs.WithBank, **changes))))


def test_a_method_may_warn_after_an_epoch(toy_root, tmp_path, capsys):
    train(jobs.job(toy_root, tmp_path / "r" / "train", kind=jobs.Worried))
    said = [line for line in capsys.readouterr().out.splitlines() if "Warning" in line]
    assert said == ["Warning: too much after epoch 2.", "Warning: too much after epoch 3."]


def test_checkpoint_of_another_recipe_is_not_continued(toy_root, tmp_path, capsys):
    out = tmp_path / "a" / "train"
    with pytest.raises(KeyboardInterrupt):
        train(jobs.job(toy_root, out, kind=jobs.Interrupted))
    train(jobs.job(toy_root, out, lr=0.01))
    assert "other settings, data or code" in capsys.readouterr().err
    fresh = train(jobs.job(toy_root, tmp_path / "b" / "train", lr=0.01))
    assert_equal(weights(out / "model.pt"), weights(fresh))


def test_ema_includes_buffers(toy_root, tmp_path):
    plain = weights(train(jobs.job(toy_root, tmp_path / "a" / "train")))
    averaged = weights(train(jobs.job(toy_root, tmp_path / "b" / "train", ema=0.9)))
    assert plain.keys() == averaged.keys()
    name = next(key for key in plain if key.endswith("running_mean"))
    assert not torch.equal(plain[name], averaged[name])


@pytest.mark.slow
def test_two_processes_equal_one(toy_root, tmp_path):
    """Frozen statistics, because batch statistics of half a batch are others by definition."""
    one = train(jobs.job(toy_root, tmp_path / "a" / "train", batch_norm="frozen"))
    machine = MachineSettings(device="cpu", devices=2, workers=0)
    job = jobs.job(toy_root, tmp_path / "b" / "train", batch_norm="frozen", machine=machine)
    two = train(job)
    assert_equal(weights(one), weights(two), tolerance=1e-6)
    curves = [pd.read_csv(tmp_path / run / "train" / "history.csv").loss for run in "ab"]
    assert curves[0].tolist() == pytest.approx(curves[1].tolist(), rel=1e-5)


def test_accumulation_equals_one_batch(toy_root, tmp_path):
    one = train(jobs.job(toy_root, tmp_path / "a" / "train", batch_norm="frozen"))
    two = train(jobs.job(toy_root, tmp_path / "b" / "train", batch_norm="frozen", accumulate=2))
    assert_equal(weights(one), weights(two), tolerance=1e-6)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch_size": 40}, "40, but the list has only 9 images"),
        ({"accumulate": 3}, "share of 4 images does not divide into train.accumulate = 3"),
    ],
)
def test_impossible_batches(toy_root, tmp_path, changes, text):
    with pytest.raises(UserError, match=text):
        train(jobs.job(toy_root, tmp_path / "a" / "train", **changes))


def test_loss_that_is_not_finite_names_step_and_images(toy_root, tmp_path):
    out = tmp_path / "a" / "train"
    with pytest.raises(UserError, match="epoch 2, step 3"):
        train(jobs.job(toy_root, out, kind=jobs.NotFinite))
    saved = json.loads((out / "not_finite.json").read_text())
    assert saved["epoch"] == 2
    assert len(saved["ids"]) == 4
    assert checkpoint.path_for(out).exists()


@pytest.mark.slow
def test_a_fault_in_one_of_several_processes_is_said_in_words(toy_root, tmp_path):
    machine = MachineSettings(device="cpu", devices=2, workers=0)
    with pytest.raises(UserError, match="not finite in epoch 2, step 3"):
        train(jobs.job(toy_root, tmp_path / "a" / "train", kind=jobs.NotFinite, machine=machine))


def test_a_place_that_cannot_be_written_is_found_before_training(toy_root, tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UserError, match="a file lies where a directory is needed"):
        train(jobs.job(toy_root, tmp_path / "a" / "train", kind=jobs.NotFinite))


def test_training_works_without_masks(toy_root, tmp_path):
    with_masks = weights(train(jobs.job(toy_root, tmp_path / "a" / "train")))
    for path in (toy_root / "SegmentationClass").iterdir():
        path.unlink()
    (toy_root / "SegmentationClass").rmdir()
    assert_equal(with_masks, weights(train(jobs.job(toy_root, tmp_path / "b" / "train"))))


def test_second_run_into_the_same_directory(toy_root, tmp_path):
    out = tmp_path / "a" / "train"
    hold = (
        "import sys, time; from pathlib import Path\n"
        "from wsssbench.engine.checkpoint import in_use\n"
        "with in_use(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            train(jobs.job(toy_root, out))
    finally:
        holder.kill()
        holder.wait()
    train(jobs.job(toy_root, out, epochs=1))


def test_disk_full_keeps_the_last_checkpoint(toy_root, tmp_path, monkeypatch):
    out = tmp_path / "a" / "train"
    saved = torch.save

    def full(state, stream):
        if state["epoch"] == 2:
            stream.write(b"half")
            raise OSError(28, "No space left on device")
        saved(state, stream)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="Disk full"):
        train(jobs.job(toy_root, out))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    kept = checkpoint.path_for(out)
    assert torch.load(kept, weights_only=True)["epoch"] == 1
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
