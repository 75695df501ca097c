"""Mixers by name, and the check of their settings."""

from typing import Literal

import pytest
import torch
from mix_batches import make_batch

from wsssbench import settings
from wsssbench.errors import UserError
from wsssbench.mixing import MIXERS, MixBatch, Mixer, build, check_settings, settings_of


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_says_what_it_is(name):
    mixer = build(name, {})
    assert isinstance(mixer, Mixer)
    assert mixer.mode in ("label", "mask")
    assert set(mixer.needs) <= {"mask", "saliency", "probs"}
    check_settings(name, settings_of(name), "its own defaults")
    assert mixer.memory() is not None
    mixer.remember(mixer.memory())


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("cutmx", {}, "Unknown mixer 'cutmx'. Did you mean 'cutmix'"),
        ("cutmix", {"bta": 1.0}, "Unknown setting 'bta'. Did you mean 'beta'"),
        ("cutmix", {"beta": "much"}, "beta: expected a float like 1.0, got 'much'"),
        ("cutmix", {"granularity": "image"}, "Unknown value 'image'. .*sample, batch"),
        ("cutmix", {"pairing": "random"}, "Unknown value 'random'"),
        ("cutmix", {"beta": 0.0}, "beta: expected a number above 0"),
        ("cutmix", {"prob": 1.5}, "prob: expected a number from 0 to 1"),
        ("cutmix_seg", {"prop": [0.5]}, "prop: expected a tuple"),
        ("cutmix_seg", {"prop": [0.6, 0.5]}, "prop: expected a range"),
        ("mixup", {"alpha": -1}, "alpha: expected a number above 0"),
        ("cowmix", {"sigma": [0, 5]}, "sigma: expected a range above 0"),
        ("cowmix", {"p": 2}, "p: expected a number from 0 to 1"),
        ("saliency_grafting", {"temperature": 0}, "must be above 0"),
        ("saliency_grafting", {"p_bernoulli": -0.1}, "p_bernoulli: expected 0 to 1"),
        ("classmix", {"draw": "half"}, "Unknown value 'half'. .*half_floor"),
        ("identity", {"pairing": "cyclic"}, "Unknown setting 'pairing'"),
    ],
)
def test_wrong_settings_are_explained(name, wrong, message):
    with pytest.raises(UserError, match=message):
        build(name, wrong)


def test_missing_parts_are_named():
    batch = MixBatch(torch.zeros(2, 3, 4, 4), torch.ones(2, 2))
    for name, part in (("classmix", "mask"), ("saliency_grafting", "saliency")):
        with pytest.raises(UserError, match=f"needs `{part}`"):
            build(name, {}).plan(batch, torch.Generator())


def test_draws_come_from_the_cpu():
    class Elsewhere:
        device = torch.device("meta")

    with pytest.raises(ValueError, match="CPU generator, not from meta"):
        build("cutmix", {}).plan(make_batch(), Elsewhere())


def maker(
    network: str,
    *,
    steps: int = 3,
    rate: float = 0.5,
    where: Literal["here", "there"] = "here",
    ends: tuple[float, float] = (0.0, 1.0),
    sides: tuple[int, ...] = (2, 4),
    cap: int | None = 5,
    extra: dict | None = None,
    flag: bool = True,
): ...


@pytest.mark.parametrize(
    "fitting",
    [
        {"steps": 4, "rate": 1, "where": "there", "ends": [0, 2], "sides": [1, 2, 3]},
        {"cap": None, "extra": {"a": 1}, "flag": False},
    ],
)
def test_fitting_settings(fitting):
    settings.check(maker, fitting, "here")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 1.5},
        {"steps": True},
        {"rate": False},
        {"rate": None},
        {"where": "nowhere"},
        {"ends": [0, 1, 2]},
        {"ends": 3},
        {"sides": ["a"]},
        {"cap": "many"},
        {"flag": 1},
        {"network": "tiny"},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(UserError, match=r"^here: "):
        settings.check(maker, wrong, "here")


def test_keyword_settings():
    assert list(settings.keyword_settings(maker))[:2] == ["steps", "rate"]
