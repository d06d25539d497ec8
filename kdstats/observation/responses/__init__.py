"""Text answers, of any model: how they vary, err and agree; which of them a student is trained on."""
