"""The random experiment itself: noise laws, teacher responses, labels, resampled rows."""
