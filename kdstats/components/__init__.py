"""The answer: one result type, its estimation from replicate predictions, its uncertainty."""
