"""Engines that train students for real and measure them."""
