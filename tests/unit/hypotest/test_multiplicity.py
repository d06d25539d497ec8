import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from kdstats.hypotest import adjust_pvalues
from kdstats.hypotest.multiplicity import METHODS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (4, 5)])
def test_adjustment_is_that_of_statsmodels(method, shape):
    raw = np.random.default_rng(0).uniform(size=shape) ** 3
    raw.flat[0] = raw.flat[-1]  # ties
    found = adjust_pvalues(raw, method=method)
    assert found.shape == shape
    np.testing.assert_allclose(found.ravel(), multipletests(raw.ravel(), method=method)[1], rtol=1e-12)
