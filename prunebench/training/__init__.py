"""Training: methods that have weights learn them on a frozen model."""

from prunebench.learning.loop import Pace
from prunebench.learning.schedule import TrainSchedule
from prunebench.training.data import open_data
from prunebench.training.lesson import DataError, TrainingData
from prunebench.training.loop import train
from prunebench.training.student import Start

__all__ = ["DataError", "Pace", "Start", "TrainSchedule", "TrainingData", "open_data", "train"]
