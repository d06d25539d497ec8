"""Network students predicted: kernels of wide networks, and the response of one training run to its labels."""
