"""What the libraries that build networks say: kept quiet, or put into one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redteam.errors import NotACheckpoint


def require_fit(name: str, wrong: Mapping[str, Any]) -> None:
    """Refuses tensors that are not those of a network.

    Args:
        name: Of the network's class, for the message.
        wrong: What is wrong with them → the names of those with which it is.

    Raises:
        NotACheckpoint: If there are any.
    """
    found = {key: sorted(map(str, names)) for key, names in wrong.items() if names}
    if found:
        text = "; ".join(f"{key.replace('_', ' ')}: {', '.join(names[:3])}" for key, names in found.items())
        raise NotACheckpoint(f"The tensors do not fit a {name} ({text}); config and weights must belong together.")


class as_a_sentence:
    """Turns whatever a library says of a config that it cannot build into one sentence."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, NotACheckpoint):
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise NotACheckpoint(f"The config does not describe a {self._name} ({why}); restore the file.") from error


class quiet_transformers:
    """Silences transformers' progress bars and advice, and puts its settings back."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._level, self._bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bars:
            logging.enable_progress_bar()
