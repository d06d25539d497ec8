"""Engines that answer before any student is trained."""
