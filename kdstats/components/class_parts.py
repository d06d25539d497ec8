"""The parts of the Gini index and the entropy of predicted classes, as estimates and predictions both have them."""

from __future__ import annotations

import xarray as xr

from kdstats.errors import EstimationError, invalid

__all__ = ["COMPONENTS", "DIMS", "ENTROPY", "GINI", "ClassParts", "check_components"]

DIMS = ("component", "point")
GINI = ("inter_student", "intra_student", "total")
ENTROPY = ("mutual_information", "expected_entropy", "total_entropy")
#: The last of each three is the sum of the first two.
COMPONENTS = GINI + ENTROPY


def check_components(name: str, array: xr.DataArray) -> None:
    """Raise an error unless an array has the dims and components of a table of classes."""
    if array.dims != DIMS or tuple(array["component"].values) != COMPONENTS:
        raise invalid(name, f"have the dims {', '.join(DIMS)} and all components", f"{array.dims}", EstimationError)


class ClassParts:
    """What has an ``estimate`` of all components, by name."""

    estimate: xr.DataArray

    @property
    def inter_student(self) -> xr.DataArray:
        """Variance over students of their probabilities, summed over classes."""
        return self._of("inter_student")

    @property
    def intra_student(self) -> xr.DataArray:
        """Mean Gini index of one student."""
        return self._of("intra_student")

    @property
    def total(self) -> xr.DataArray:
        """Gini index of outputs of students drawn afresh."""
        return self._of("total")

    @property
    def mutual_information(self) -> xr.DataArray:
        """Information that an output has about which student gave it."""
        return self._of("mutual_information")

    @property
    def expected_entropy(self) -> xr.DataArray:
        """Mean entropy of one student's probabilities."""
        return self._of("expected_entropy")

    @property
    def total_entropy(self) -> xr.DataArray:
        """Entropy of the students' mean probabilities."""
        return self._of("total_entropy")

    def _of(self, component: str) -> xr.DataArray:
        return self.estimate.sel(component=component, drop=True)
