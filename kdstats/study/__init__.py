"""Studies: a problem predicted, observed and tested, from one file to one folder of results."""

from kdstats.study.data import Dataset, load_dataset, read_csv
from kdstats.study.file import Study
from kdstats.study.run import StudyResult, run_study
from kdstats.study.until_decided import DecidedObservation, observe_until_decided

__all__ = [
    "Dataset",
    "DecidedObservation",
    "Study",
    "StudyResult",
    "load_dataset",
    "observe_until_decided",
    "read_csv",
    "run_study",
]
