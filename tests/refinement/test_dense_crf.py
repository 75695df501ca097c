"""The dense CRF against the library's results (golden), hand examples and its invariances."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.errors import UserError
from wsssbench.refinement import dense_crf
from wsssbench.refinement.dense_crf import (
    PARAMETER_SETS,
    crf_labels,
    crf_scores,
    unary_from_labels,
    unary_from_scores,
)

MODULE = importlib.import_module("wsssbench.refinement.dense_crf")
STEADY = settings(deadline=None, derandomize=True, max_examples=30)
OFF = {"gaussian": (0, 1), "bilateral": (0, 1, 1)}
PSA, DEEPLAB = PARAMETER_SETS["psa"], PARAMETER_SETS["deeplab"]
ALONE = {
    "gauss_psa": {"gaussian": (1, 3)},
    "gauss_rs": {"gaussian": (1, 1)},
    "bilat_psa": {"bilateral": (1, 80, 13)},
    "bilat_irn": {"bilateral": (1, 50, 5)},
    "bilat_rs": {"bilateral": (1, 67, 3)},
}
IMPULSES = {
    "gauss3": {"gaussian": (1, 3)},
    "bilat_50_5": {"bilateral": (1, 50, 5)},
}


@pytest.fixture(scope="module")
def golden():
    """See `dense_crf.md`."""
    with np.load(Path(__file__).parents[1] / "golden" / "dense_crf.npz") as stored:
        return {k: torch.from_numpy(v) for k, v in stored.items() if k != "meta"}


def draw(labels=3, size=(13, 18), seed=0):
    """An image of a few grey levels and energies."""
    generator = torch.Generator().manual_seed(seed)
    image = (torch.rand(*size, 3, generator=generator) * 5).floor().mul(40).byte()
    return image, unary_from_scores(torch.rand(labels, *size, generator=generator))


def assert_same_labels(found, expected):
    assert (found == expected).double().mean() >= 0.9995


def assert_like(q, expected, atol):
    assert q.dtype == torch.float32
    assert q.is_contiguous()
    torch.testing.assert_close(q, expected, rtol=0, atol=atol)
    assert_same_labels(q.argmax(0), expected.argmax(0))


@pytest.mark.parametrize("case", [1, 2])
def test_golden_psa(golden, case):
    q = crf_scores(golden[f"in_img_{case}"], golden[f"in_prob_{case}"])
    assert_like(q, golden[f"out_psa_Q_{case}"], 5e-4)


def test_golden_psa_once_and_deeplab(golden):
    image, scores = golden["in_img_2"], golden["in_prob_2"]
    assert_like(crf_scores(image, scores, iterations=1), golden["out_psa_Q1_2"], 5e-6)
    assert_like(crf_scores(image, scores, "deeplab"), golden["out_rs_Q_2"], 5e-4)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_golden_irn(golden, case):
    image, mask = golden[f"in_img_{case}"], golden[f"in_hard_{case}"]
    expected = golden[f"out_irn_Q_{case}"]
    unary = unary_from_labels(mask, len(expected))
    assert_like(dense_crf(image, unary, **PARAMETER_SETS["irn"]), expected, 5e-4)
    found = crf_labels(image.numpy(), mask, len(expected))
    assert found.dtype == torch.int64
    assert_same_labels(found, golden[f"out_irn_label_{case}"])
    once = crf_labels(image, mask, len(expected), "irn", iterations=1)
    assert_same_labels(once, golden[f"out_irn_label_t1_{case}"])


@pytest.mark.parametrize("kernel", ALONE)
def test_golden_one_kernel(golden, kernel):
    unary = unary_from_scores(golden["in_prob_2"])
    q = dense_crf(golden["in_img_2"], unary, iterations=1, **{**OFF, **ALONE[kernel]})
    assert_like(q, golden[f"out_{kernel}_Q1_2"], 5e-6)


@pytest.mark.parametrize("kernel", IMPULSES)
def test_golden_impulse(golden, kernel):
    image, unary = golden["in_impulse_img"], golden["in_impulse_unary"]
    q = dense_crf(image, unary, iterations=1, **{**OFF, **IMPULSES[kernel]})
    torch.testing.assert_close(q, golden[f"out_impulse_{kernel}_Q1"], rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", PARAMETER_SETS)
@pytest.mark.parametrize("size", [(31, 44), (33, 43)])
def test_the_library_if_it_is_installed(name, size):
    library = pytest.importorskip("pydensecrf.densecrf")
    image, unary = draw(4, size, seed=5)
    gaussian, bilateral = PARAMETER_SETS[name]["gaussian"], PARAMETER_SETS[name]["bilateral"]
    for iterations, atol in ((1, 5e-6), (PARAMETER_SETS[name]["iterations"], 5e-4)):
        crf = library.DenseCRF2D(size[1], size[0], 4)
        crf.setUnaryEnergy(unary.flatten(1).numpy())
        crf.addPairwiseGaussian(sxy=gaussian[1], compat=gaussian[0])
        crf.addPairwiseBilateral(
            sxy=bilateral[1], srgb=bilateral[2], rgbim=image.numpy(), compat=bilateral[0]
        )
        expected = torch.from_numpy(np.array(crf.inference(iterations))).view(unary.shape)
        q = dense_crf(image, unary, **{**PARAMETER_SETS[name], "iterations": iterations})
        assert_like(q, expected, atol)


def test_one_pixel():
    """The normalised kernel of a pixel alone is 1: ln 1.5 + 13 · 0.2."""
    scores = torch.tensor([0.6, 0.4])[:, None, None]
    q = crf_scores(np.zeros((1, 1, 3), np.uint8), scores, iterations=1)
    logit = math.log(1.5) + 13 * 0.2
    assert q[0, 0, 0] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    assert q.flatten().tolist() == pytest.approx([0.95282, 0.04718], abs=1e-5)


def test_two_pixels():
    scores = torch.tensor([[[0.9, 0.4]], [[0.1, 0.6]]])
    image = torch.full((1, 2, 3), 7, dtype=torch.uint8)
    unary = unary_from_scores(scores)
    q = dense_crf(image, unary, iterations=1, gaussian=(3, 3), bilateral=(0, 1, 1))
    assert q[0, 0].tolist() == pytest.approx([0.96170, 0.62610], abs=1e-5)


def test_energies_of_scores():
    energies = unary_from_scores(torch.tensor([0, 1e-6, 1e-5, 0.5, 1, 1.5], dtype=torch.float64))
    expected = [11.512925, 11.512925, 11.512925, math.log(2), 0, 0]
    assert energies.tolist() == pytest.approx(expected)
    assert energies.dtype == torch.float32


@pytest.mark.parametrize(("labels", "other"), [(2, 1.2040), (3, 1.8971), (21, 4.1997)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_energies_of_labels(labels, other, dtype):
    energies = unary_from_labels(torch.tensor([[0, 1]], dtype=dtype), labels)
    assert energies.shape == (labels, 1, 2)
    assert energies.dtype == torch.float32
    assert energies[:2].flatten().tolist() == pytest.approx(
        [0.3567, other, other, 0.3567], abs=1e-4
    )
    assert energies[2:].flatten().tolist() == pytest.approx([other] * 2 * (labels - 2), abs=1e-4)


def test_one_label_only():
    image, _ = draw()
    mask = torch.zeros(13, 18, dtype=torch.int64)
    unary = unary_from_labels(mask, 1)
    torch.testing.assert_close(unary, torch.full((1, 13, 18), -math.log(0.7)))
    assert torch.equal(dense_crf(image, unary), torch.ones(1, 13, 18))
    assert torch.equal(crf_labels(image, mask, 1), mask)


@STEADY
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    labels=st.integers(2, 18),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_labels_are_treated_alike(size, labels, iterations, seed):
    image, unary = draw(labels, size, seed)
    order = torch.randperm(labels, generator=torch.Generator().manual_seed(seed))
    options = {**DEEPLAB, "iterations": iterations}
    q = dense_crf(image, unary, **options)
    torch.testing.assert_close(q.sum(0), torch.ones(size))
    shuffled = dense_crf(image, unary[order], **options)
    torch.testing.assert_close(shuffled, q[order], rtol=0, atol=1e-4)
    even = dense_crf(image, unary[:1].expand(labels, *size), **options)
    torch.testing.assert_close(even, torch.full_like(even, 1 / labels), rtol=1e-6, atol=0)


@STEADY
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    labels=st.integers(2, 18),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_without_weights_or_iterations_the_softmax(size, labels, iterations, seed):
    image, unary = draw(labels, size, seed)
    expected = (-unary).softmax(0)
    q = dense_crf(image, unary, iterations=iterations, **OFF)
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(dense_crf(image, unary, iterations=0), expected)


def test_energies_may_be_shifted_and_extreme():
    image, unary = draw(3)
    shift = torch.rand(13, 18)
    q = dense_crf(image, unary, iterations=2)
    torch.testing.assert_close(dense_crf(image, unary + shift, iterations=2), q, rtol=0, atol=1e-4)
    sure = dense_crf(image, torch.stack([unary[0] - 1e4, unary[1] + 1e4]))
    assert torch.equal(sure, torch.stack([torch.ones(13, 18), torch.zeros(13, 18)]))


def noisy_halves(contrast, size=(32, 40), flips=0.25):
    """A two-coloured image, its mask, the mask with wrong pixels."""
    truth = torch.zeros(size, dtype=torch.int64)
    truth[:, 17:] = 1
    grey = 100 + contrast * truth
    wrong = torch.rand(size, generator=torch.Generator().manual_seed(0)) < flips
    return grey[..., None].repeat(1, 1, 3).byte(), truth, truth ^ wrong.long()


def test_errors_fall_with_the_weight_of_colour():
    image, truth, _ = noisy_halves(contrast=60)
    noise = 2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    score = (2 * truth - 1 + noise).sigmoid()
    unary = unary_from_scores(torch.stack([1 - score, score]))
    errors = [
        int(
            (dense_crf(image, unary, gaussian=(0, 1), bilateral=(w, 50, 5)).argmax(0) ^ truth).sum()
        )
        for w in (0, 0.5, 1, 2, 10)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3] > 0
    assert errors[4] == 0


def test_without_edges_only_the_distance_counts():
    """One colour: the bilateral kernel adds nearly the same everywhere, the Gaussian does not."""
    image, _, noisy = noisy_halves(contrast=0, flips=0.1)
    unary = unary_from_labels(noisy, 2)

    def spread(**kernels):
        logit = dense_crf(image, unary, iterations=1, **{**OFF, **kernels}).logit()[1]
        return float((logit - (unary[0] - unary[1])).std())

    assert spread(bilateral=(3, 200, 13)) < 0.1 * spread(gaussian=(3, 3))


def test_an_island_goes_and_the_edge_stays():
    image, truth, _ = noisy_halves(contrast=60)
    seen = truth.clone()
    seen[8, 5] = 1
    seen[20:24, 17:19] = 0
    assert torch.equal(crf_labels(image, seen, 2), truth)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 3), (17, 23)])
@pytest.mark.parametrize("name", PARAMETER_SETS)
def test_odd_sizes(size, name):
    image, unary = draw(2, size)
    q = dense_crf(image, unary, **PARAMETER_SETS[name])
    assert q.shape == (2, *size)
    assert q.isfinite().all()


def test_images_of_any_layout_and_arguments_untouched():
    image, unary = draw()
    before = image.clone(), unary.clone()
    q = dense_crf(image, unary)
    array = image.numpy()
    assert torch.equal(dense_crf(array, unary), q)
    backwards = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    assert torch.equal(dense_crf(backwards, unary), q)
    array = array.copy()
    array.flags.writeable = False
    assert torch.equal(dense_crf(array, unary.double()), q)
    channels_first = image.movedim(2, 0).contiguous().movedim(0, 2)
    assert torch.equal(dense_crf(channels_first, unary.mT.contiguous().mT), q)
    assert torch.equal(image, before[0])
    assert torch.equal(unary, before[1])


def test_no_gradient_same_result_same_threads():
    image, unary = draw()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        q = dense_crf(image, unary.requires_grad_())
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert not q.requires_grad
    assert torch.equal(dense_crf(image, unary), q)


def test_the_gaussian_lattice_is_kept(monkeypatch):
    image, unary = draw(size=(6, 11))
    MODULE._gaussian_lattice.cache_clear()
    first = dense_crf(image, unary)
    real, built = MODULE.build_lattice, []
    monkeypatch.setattr(MODULE, "build_lattice", lambda x: built.append(len(x)) or real(x))
    assert torch.equal(dense_crf(image, unary), first)
    assert built == [5]
    dense_crf(image, unary, gaussian=(3, 2))
    assert built == [5, 2, 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", PARAMETER_SETS)
def test_gpu(name):
    image, unary = draw(5, (33, 43))
    options = {**PARAMETER_SETS[name], "iterations": 1}
    q = dense_crf(image, unary.cuda(), **options)
    assert q.is_cuda
    torch.testing.assert_close(q.cpu(), dense_crf(image, unary, **options), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("image", "unary", "message"),
    [
        (torch.zeros(5, 7, 3), torch.zeros(2, 5, 7), "uint8"),
        (np.zeros((5, 7, 3)), torch.zeros(2, 5, 7), "uint8"),
        (torch.zeros(3, 5, 7, dtype=torch.uint8), torch.zeros(2, 5, 7), r"\(H, W, 3\)"),
        (torch.zeros(5, 7, dtype=torch.uint8), torch.zeros(2, 5, 7), r"\(H, W, 3\)"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), torch.zeros(2, 7, 5), "Resize the maps"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), torch.zeros(5, 7), r"\(L, H, W\)"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), torch.zeros(0, 5, 7), r"\(L, H, W\)"),
        (torch.zeros(0, 7, 3, dtype=torch.uint8), torch.zeros(2, 0, 7), r"\(L, H, W\)"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), torch.zeros(2, 5, 7).long(), "type float"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), torch.full((2, 5, 7), torch.nan), "NaN"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), torch.zeros(2, 5, 7).log(), "unary_from_scores"),
    ],
)
def test_errors_say_what_is_wrong_with_the_input(image, unary, message):
    with pytest.raises(UserError, match=message) as error:
        dense_crf(image, unary)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": -1}, "iterations"),
        ({"iterations": 1.5}, "iterations"),
        ({"gaussian": (-1, 3)}, "gaussian"),
        ({"gaussian": (3, 0)}, "gaussian"),
        ({"gaussian": (3,)}, "gaussian"),
        ({"bilateral": (10, 80)}, "srgb"),
        ({"bilateral": (-10, 80, 13)}, "weight >= 0"),
        ({"bilateral": (10, 80, -13)}, "bilateral"),
        ({"bilateral": (10, 80, math.nan)}, "bilateral"),
        ({"bilateral": (math.inf, 80, 13)}, "bilateral"),
        ({"bilateral": (10, 1e-9, 13)}, "too small"),
    ],
)
def test_errors_say_what_is_wrong_with_the_settings(options, message):
    with pytest.raises(UserError, match=message) as error:
        dense_crf(*draw(), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mask", "labels", "options", "message"),
    [
        (torch.tensor([[0, 3]]), 3, {}, r"labels 0\.\.3.*0\.\.2"),
        (torch.tensor([[-1, 0]]), 3, {}, "Renumber"),
        (torch.tensor([[0, 255]], dtype=torch.uint8), 3, {}, "ignored pixel"),
        (torch.zeros(1, 2), 3, {}, "whole numbers"),
        (torch.zeros(1, 1, 2).long(), 3, {}, r"\(H, W\)"),
        (torch.zeros(1, 2).long(), 0, {}, "at least one label"),
        (torch.zeros(1, 2).long(), 2, {"confidence": 1}, "confidence"),
    ],
)
def test_errors_say_what_is_wrong_with_a_mask(mask, labels, options, message):
    with pytest.raises(UserError, match=message) as error:
        crf_labels(np.zeros((1, 2, 3), np.uint8), mask, labels, **options)
    assert "\n" not in str(error.value)


def test_scores_that_are_not_numbers_and_sets_that_do_not_exist():
    image, _ = draw()
    with pytest.raises(UserError, match="NaN in the scores"):
        crf_scores(image, torch.full((2, 13, 18), torch.nan))
    with pytest.raises(UserError, match="Did you mean 'deeplab'"):
        crf_scores(image, torch.rand(2, 13, 18), "deeplap")


def test_parameter_sets():
    """As the specification's table has them, with weight first."""
    assert list(PARAMETER_SETS) == ["psa", "irn", "deeplab", "seamseg", "afa-test", "cosa-test"]
    assert PARAMETER_SETS["cosa-test"] == {
        "iterations": 1,
        "gaussian": (1, 1),
        "bilateral": (4, 121, 5),
    }
    image, unary = draw()
    assert torch.equal(dense_crf(image, unary), dense_crf(image, unary, **PSA))
