"""What stands in a scenario's file, and the sentences on what should not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from redteam.errors import BadInput, hint
from redteam_scenarios.turns import EACH, required

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Kind = Literal[
    "text-classification",
    "image-classification",
    "regression",
    "retrieval",
    "zero-shot",
    "multiple-choice",
    "generation",
    "perplexity",
]
FIT = "fit"
"""What stands for a head that is to be fitted."""
LM_EVAL = "lm-eval:"
"""What stands before the name of a task of lm-evaluation-harness."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskEntry(_Strict):
    """A task: an expert, and labelled data that say how good it is.

    Attributes:
        model: The expert: a folder, a safetensors file, an adapter of the base, or a name on the hub.
        revision: Of a name on the hub.
        data: A table (CSV, TSV, JSON lines, Parquet, Arrow), a folder of images with a folder for each class, a folder
            that `datasets` saved, a folder of Parquet, a dataset of the hub, `org/name` or `org/name:config`, or a task
            of lm-evaluation-harness, `lm-eval:name`; split by itself or by `validation` and `test`, or the training
            data where the next two are given.
        data_revision: Of datasets of the hub.
        validation_data, test_data: Tables of their own.
        kind: What is scored; by default what the expert's architecture is for.
        text: Column of the text, or two of them for pairs.
        label: Column of the label.
        image: Column of an image's path, where the data are a table.
        classes: What the classes are called in prompts, in the order of the labels; by default the labels themselves.
        templates: The prompts of zero-shot classification, `{}` in place of a class's name.
        query, relevant: Columns of a query and of its relevant passages: a list, or keys with blanks between them.
        corpus: Table of the passages.
        id, passage: Its columns of keys and texts.
        prompt: Column of what a causal model is to continue.
        choices: Column of a list of continuations, or a column for each.
        answer: Column of the right continuation: its text, or among choices its letter, or its place from 0.
        pattern: What of a text that is generated is compared with the answer; by default all of it.
        labels: The classes in the order of the head's outputs; by default the config's names.
        head: "fit" for a head that is fitted on the expert's frozen states, or a safetensors file with a linear one
            (`weight` [classes, width] and `bias`); by default the expert's own.
        pooling: How the states of a text or picture become the vector that such a head reads.
        validation, test: Shares of the rows that are held out.
        limit: Rows that are used at most, of each split.
        length: Tokens that are read at most.
        tokens: Tokens that are generated at most; by default as many as the longest answer has, and one.
        passages: Passages that are looked through at most; the relevant ones are among them.
        train: Whether the expert is to be fine-tuned from the base, in place of a model.
        steps: Of that training.
        rate: Its highest learning rate.
        batch: Rows to a step.
        lora: The rank of an adapter that is trained, and merged, in place of all weights.
    """

    model: str = ""
    revision: str | None = None
    data: str
    data_revision: str | None = None
    validation_data: str = ""
    test_data: str = ""
    kind: Kind | None = None
    text: str | tuple[str, ...] = "text"
    label: str = "label"
    image: str = "image"
    classes: tuple[str, ...] = ()
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("a photo of a {}.",)
    query: str = "query"
    relevant: str = "relevant"
    corpus: str = ""
    id: str = "id"
    passage: str = "text"
    prompt: str = "prompt"
    choices: str | tuple[str, ...] = "choices"
    answer: str = "answer"
    pattern: str = ""
    head: str = ""
    pooling: Literal["mean", "cls", "last"] = "mean"
    labels: tuple[str, ...] = ()
    validation: Share = 0.25
    test: Share = 0.5
    limit: Count = 2000
    length: Count = 256
    tokens: Count | None = None
    passages: Count = 5000
    train: bool = False
    steps: Count = 300
    rate: Annotated[float, Field(gt=0, lt=1)] = 5e-5
    batch: Count = 16
    lora: Count | None = None

    @model_validator(mode="after")
    def _shares(self) -> TaskEntry:
        if bool(self.validation_data) != bool(self.test_data):
            raise ValueError("validation_data and test_data belong together; give both or neither")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on; expected a sum below 1")
        if self.lora is not None and not self.train:
            raise ValueError("lora is for an expert that is trained; add train = true, or leave it out")
        if not isinstance(self.text, str) and len(self.text) != 2:
            raise ValueError("text names one column, or two for pairs")
        if any("{}" not in template for template in self.templates):
            raise ValueError("a template has no {} in place of a class's name")
        return self


class Plan(_Strict):
    """A scenario's file.

    Attributes:
        name: What reports call it; by default what the file is called.
        base: The public model that all were fine-tuned from: a folder, a file, or a name on the hub.
        revision: Of a base on the hub.
        victim: The task whose expert is protected.
        victims: Several fine-tunes of the victim by one recipe, each of which counts as a seed; or "each", which makes
            every task the victim in turn.
        tasks: Name → task, the victim's and those of the free-rider's own experts.
        home: The file's folder, where paths in it start.
        file: The file.
    """

    name: str = ""
    base: str
    revision: str | None = None
    victim: str = ""
    victims: tuple[str, ...] | Literal["each"] = ()
    tasks: Annotated[dict[str, TaskEntry], Field(min_length=2)]
    home: Path
    file: Path

    @model_validator(mode="after")
    def _models(self) -> Plan:
        if EACH in self.tasks:
            raise ValueError(f"a task is called {EACH!r}, which stands for every task in turn; give it another name")
        if self.victims == EACH and self.victim:
            raise ValueError(f'victims = "{EACH}" makes every task the victim, and victim names one; keep one of them')
        if self.victims != EACH and not self.victim:
            raise ValueError(f'no victim; name the task whose expert is to be protected, or write victims = "{EACH}"')
        if self.victim and self.victim not in self.tasks:
            near = hint(self.victim, self.tasks, "there are").removesuffix(".")
            raise ValueError(f"the victim {self.victim!r} is none of the tasks; {near}")
        if self.runs and self.tasks[self.victim].model:
            raise ValueError(f"both victims and tasks.{self.victim}.model name the victim; keep one of them")
        for name, task in self.tasks.items():
            if task.train and (task.model or (name == self.victim and self.runs)):
                raise ValueError(f"tasks.{name} has a model and asks for training one; keep one of them")
            if not (task.model or task.train or (name == self.victim and self.runs)):
                raise ValueError(f"tasks.{name} has no model; name the expert's folder, or write train = true")
        return self

    @property
    def runs(self) -> tuple[str, ...]:
        """Fine-tunes of the victim by one recipe, where several are listed."""
        return self.victims if isinstance(self.victims, tuple) else ()

    @property
    def experts(self) -> tuple[str, ...]:
        """The victims, one for each seed."""
        return self.runs or (self.tasks[self.victim].model,)

    @property
    def turns(self) -> tuple[str, ...]:
        """The tasks that are the victim in turn; none where the file names one."""
        return tuple(self.tasks) if self.victims == EACH else ()

    def under(self, victim: str) -> Plan:
        """The plan with the victim that was asked for; the file's own where none was.

        Args:
            victim: A task, "each", or nothing.

        Raises:
            BadSetting: If it is no task.
            BadInput: If the file lists several fine-tunes of another one.
        """
        if not victim:
            return self
        if victim != EACH:
            required(victim, self.tasks, self.name)
        if self.runs and victim != self.victim:
            raise BadInput(
                f"{self.file} lists several fine-tunes of {self.victim!r}, which has no model for when another task "
                "is the victim; name one as its model."
            )
        turns = victim == EACH
        return self.model_copy(update={"victim": "" if turns else victim, "victims": EACH if turns else self.runs})

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Reads a file.

        Raises:
            BadInput: With the first thing that is wrong with it.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"The scenario {path} cannot be read ({error.strerror}); name a TOML file.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"The scenario {path} is not TOML ({error}).") from None
        for taken in ("home", "file"):
            if taken in given:
                raise BadInput(_unknown(path, (taken,)))
        try:
            return cls(**{"name": path.stem, **given}, home=path.resolve().parent, file=path)
        except ValidationError as error:
            # A word that means nothing explains why another one is missing.
            first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
            raise BadInput(_sentence(path, first["loc"], first)) from None

    def path(self, text: str) -> Path:
        """A path of the file, from its folder on."""
        return self.home / Path(text).expanduser()


def _sentence(path: Path, place: tuple[Any, ...], error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(path, place)
    where = ".".join(str(part) for part in place)
    if error["type"] == "missing":
        return f"The scenario {path} lacks {where!r}; {_EXPECTED.get(str(place[-1]), 'add it')}."
    what = error["msg"].removeprefix("Value error, ")
    if error["type"] == "too_short":
        what = "a scenario takes two tasks or more: the victim's, and one of the free-rider's own"
    elif error["type"] == "literal_error" and str(error["input"]).startswith(LM_EVAL):
        what = f'{error["input"]!r} is no kind but a task with its data; write data = "{error["input"]}"'
    elif error["type"] == "literal_error":
        what = f"{error['input']!r} is no kind of task; expected {error['ctx']['expected']}"
    elif error["type"] != "value_error":
        what = f"{error['input']!r} does not go there ({what.lower()})"
    return f"The scenario {path} cannot be used{f', {where}' if where else ''}: {what}."


_EXPECTED = {
    "base": "name the public model that all experts were fine-tuned from",
    "tasks": "add a table [tasks.NAME] for the victim and for each companion",
    "data": "name the file with its labelled data",
}


def _unknown(path: Path, place: tuple[Any, ...]) -> str:
    model, known = (TaskEntry, "a task has") if place[0] == "tasks" else (Plan, "there is")
    names = sorted(set(model.model_fields) - {"home", "file"})
    where = ".".join(str(part) for part in place)
    return f"The scenario {path} has an entry {where!r} that means nothing; {hint(str(place[-1]), names, known)}"
