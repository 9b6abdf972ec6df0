"""Tasks, which say how good a model is, and scenarios, which bring a base, its experts and their tasks together."""

from redteam.tasks.choices import MultipleChoice
from redteam.tasks.classification import Classification
from redteam.tasks.generation import Generation
from redteam.tasks.likelihood import LogLikelihood
from redteam.tasks.regression import Regression
from redteam.tasks.retrieval import Retrieval
from redteam.tasks.samples import Samples
from redteam.tasks.scenario import Scenario
from redteam.tasks.task import Batch, Scores, Split, Task, answers, batched, halves

__all__ = [
    "Batch",
    "Classification",
    "Generation",
    "LogLikelihood",
    "MultipleChoice",
    "Regression",
    "Retrieval",
    "Samples",
    "Scenario",
    "Scores",
    "Split",
    "Task",
    "answers",
    "batched",
    "halves",
]
