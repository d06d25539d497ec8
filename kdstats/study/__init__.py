"""Studies: a problem predicted, observed and tested, from one file to one folder of results."""

from kdstats.study.data import Dataset, load_dataset, read_csv
from kdstats.study.file import Study
from kdstats.study.run import StudyResult, run_study

__all__ = ["Dataset", "Study", "StudyResult", "load_dataset", "read_csv", "run_study"]
