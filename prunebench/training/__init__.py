"""Training: methods that have weights learn them on a frozen model."""

from prunebench.learning.schedule import TrainSchedule
from prunebench.training.data import DataError, TrainingData, open_data
from prunebench.training.loop import train

__all__ = ["DataError", "TrainSchedule", "TrainingData", "open_data", "train"]
