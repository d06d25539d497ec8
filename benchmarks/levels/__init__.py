"""Measured coverage of every interval and level of every test; run as a module."""
