"""What a budget should buy: how many inputs, responses to each, and students."""

from kdstats.planning.recommendation import plan
from kdstats.planning.result import Plan

__all__ = ["Plan", "plan"]
