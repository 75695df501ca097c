import json

import dense_crf as benchmark
import measuring
import pytest
import torch

TINY = ["--height=20", "--width=26", "--labels", "3", "2", "--sets=psa", "--repeats=1"]


class SameAsOurs:
    """Stands in for the library, and returns what the benchmark's own call did."""

    def __init__(self, width, height, labels):
        self.size = labels, height * width

    def setUnaryEnergy(self, unary):
        self.unary = torch.from_numpy(unary)

    def addPairwiseGaussian(self, sxy, compat):
        self.gaussian = compat, sxy

    def addPairwiseBilateral(self, sxy, srgb, rgbim, compat):
        self.image, self.bilateral = rgbim, (compat, sxy, srgb)

    def inference(self, iterations):
        from wsssbench.refinement import dense_crf

        unary = self.unary.view(-1, *self.image.shape[:2])
        kernels = {"gaussian": self.gaussian, "bilateral": self.bilateral}
        return dense_crf(self.image, unary, iterations=iterations, **kernels).flatten(1).numpy()


class Other(SameAsOurs):
    def inference(self, iterations):
        return super().inference(iterations)[::-1]


def test_prints_and_writes_a_row_per_set_and_number_of_labels(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "DenseCRF2D", SameAsOurs)
    table = benchmark.main([*TINY, f"--json={tmp_path / 'figures.json'}"])
    assert list(table["case"][:2]) == ["psa, 3 labels", "psa, 2 labels"]
    assert (table[["ours_s", "library_s"]] > 0).all(axis=None)
    assert (table["labels_equal_percent"] == 100).all()
    printed = capsys.readouterr().out
    assert "| psa, 3 labels" in printed
    assert benchmark.MISSING not in printed
    rows = json.loads((tmp_path / "figures.json").read_text())
    assert [row["case"] for row in rows] == list(table["case"])


def test_says_that_the_library_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "DenseCRF2D", None)
    table = benchmark.main(TINY)
    assert benchmark.MISSING in capsys.readouterr().out
    assert table["library_s"].isna().all()
    assert (table["ours_s"] > 0).all()


def test_other_labels_stop_it(monkeypatch):
    monkeypatch.setattr(benchmark, "DenseCRF2D", Other)
    with pytest.raises(SystemExit, match="labels differ"):
        benchmark.main(TINY)


def test_memory_is_unknown_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "RESET_PEAK", tmp_path / "none")
    assert benchmark.main(TINY)["ours_mb"][:2].isna().all()
