"""What torch trains: architectures and batched training of many students at once."""
