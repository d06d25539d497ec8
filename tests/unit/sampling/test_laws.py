"""Noise laws: standardised, reproducible, refused where they are not laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdstats.errors import ProblemError
from kdstats.sampling import Gamma, Gaussian, Laplace, StudentT, UserLaw, as_noise_law

EXACT = {
    "gaussian": stats.norm(),
    "laplace": stats.laplace(scale=np.sqrt(0.5)),
    "student_t:6": stats.t(6, scale=np.sqrt(4 / 6)),
    "gamma:1.5": stats.gamma(1.5, loc=-np.sqrt(1.5), scale=1 / np.sqrt(1.5)),
}


@pytest.mark.parametrize("name", EXACT)
def test_samples_follow_the_law_named(name):
    sample = as_noise_law(name).sample(np.random.default_rng(1), (400, 500)).ravel()
    assert stats.kstest(sample, EXACT[name].cdf).pvalue > 1e-4
    assert stats.kstest(1.05 * sample, EXACT[name].cdf).pvalue < 1e-4
    assert abs(sample.mean()) < 4.5 / np.sqrt(sample.size)
    assert abs(sample.var() - 1) < 4.5 * (sample**2).std() / np.sqrt(sample.size)


@pytest.mark.parametrize("name", EXACT)
def test_quantiles_of_both_tails(name):
    u = np.array([1e-15, 1e-6, 0.01, 0.25, 0.5])
    law = as_noise_law(name)
    np.testing.assert_allclose(law.quantile(u), EXACT[name].ppf(u), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(law.quantile(u, upper=True), EXACT[name].isf(u), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("law", [Gaussian(), Laplace(), StudentT(5.0), Gamma(2.0)])
def test_names_read_back_as_the_law(law):
    assert as_noise_law(law.name) == law
    assert as_noise_law(law) is law


def test_a_user_sampler_is_used_and_named():
    def sign(generator, size):
        return generator.choice([-1.0, 1.0], size=size)

    law = as_noise_law(sign)
    assert law.name == "user:sign"
    assert set(np.unique(law.sample(np.random.default_rng(0), (3, 4)))) <= {-1.0, 1.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("normal", "`noise_law` must be gaussian, laplace"),
        ("laplace:2", "`noise_law` must be gaussian, laplace"),
        ("student_t", "be written 'student_t:NUMBER'"),
        ("gamma:x", "be written 'gamma:NUMBER'"),
        ("student_t:2", "`df` must be greater than 2"),
        ("gamma:0", "`shape` must be greater than 0"),
        (3.0, "`noise_law` must be"),
    ],
)
def test_what_is_no_law_is_refused(value, message):
    with pytest.raises(ProblemError, match=message):
        as_noise_law(value)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda generator, size: generator.uniform(0, 1, size), "have mean 0 and variance 1; got mean 0.5"),
        (lambda generator, size: 1.1 * generator.standard_normal(size), "have mean 0 and variance 1"),
        (lambda generator, size: np.zeros(3), r"return draws of the size asked for; got shape \(3,\)"),
        (lambda generator, size: np.full(size, np.nan), "return finite draws"),
    ],
)
def test_samplers_that_are_not_standardised_are_refused(sampler, message):
    with pytest.raises(ProblemError, match=message):
        UserLaw(sampler)
