"""Training: methods that have weights learn them on a frozen model."""

from prunebench.training.data import DataError, TrainingData, open_data
from prunebench.training.loop import train
from prunebench.training.schedule import Plan

__all__ = ["DataError", "Plan", "TrainingData", "open_data", "train"]
