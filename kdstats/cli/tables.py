"""Tables on the command line: a study posed by one CSV file, and long tables of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdstats.errors import DataError, MissingDependencyError
from kdstats.observation.columns import with_missing_numbers
from kdstats.study.file import Study

__all__ = ["optional_keys", "read_long_table", "study_of_csv"]

#: Suffixes of Parquet files.
PARQUET = (".parquet", ".pq")


def study_of_csv(path: Path, *, noise_variance: str | None = None, **flags: Any) -> Study:
    """Return the study that a CSV file and the flags beside it pose."""
    data: dict[str, Any] = {"csv": str(path)}
    data |= {name: flags[name] for name in ("target", "teacher_mean", "features", "test_fraction") if name in flags}
    teacher = {}
    if noise_variance is not None:
        try:
            teacher["noise_variance"] = float(noise_variance)
        except ValueError:
            data["noise_variance"] = noise_variance
    design = {name: flags[name] for name in ("n_responses", "strategy") if name in flags}
    student = {"penalty": flags["penalty"]} if "penalty" in flags else {}
    return Study({"data": data, "teacher": teacher, "design": design, "student": student})


def read_long_table(path: Path) -> Any:
    """Read a long table of predictions, CSV or Parquet by its suffix, as a DataFrame.

    An empty cell is missing; ``NA`` is missing among numbers, and text among text.
    """
    import pandas as pd

    if path.suffix.lower() in PARQUET:
        return _read_parquet(path)
    try:
        return with_missing_numbers(pd.read_csv(path, keep_default_na=False, na_values=[""], low_memory=False))
    except OSError as error:
        raise DataError(f"`table` must be a readable file; got {str(path)!r} ({error.strerror})") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"`table` must be a CSV file with a header and rows; got {path.name!r} ({error})") from None


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError('a Parquet table needs pyarrow: pip install "kdstats[parquet]"') from error
    try:
        return pq.read_table(path).to_pandas()
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"`table` must be a Parquet file; got {path.name!r} ({reason})") from None
    except OSError as error:
        raise DataError(f"`table` must be a readable file; got {str(path)!r} ({error.strerror})") from None


def optional_keys(frame: Any, **keys: str) -> dict[str, Any]:
    """Return None for key columns that were left to their default and are not there."""
    return {key: None if name == key and name not in frame.columns else name for key, name in keys.items()}
