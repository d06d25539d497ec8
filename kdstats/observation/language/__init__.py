"""Language models as teachers and students; the only room with transformers."""
