"""What `sample.py` tells of its work: lines for people, or a JSON object on each line for other programs."""

import json
from collections.abc import Mapping
from typing import Literal

from cassr_jax.printing import say

LogFormat = Literal["text", "jsonl"]


class Log:
    """Tells of events on stdout.

    With `jsonl` every line is a JSON object: its field `event` is `plan`, `done`, `failed`, `skipped` or `note`. The
    other fields are the values of the event.
    """

    def __init__(self, form: LogFormat = "text"):
        self._form = form

    def tell(self, event: str, line: str | None, **values: object) -> None:
        """Tells of an event: by a line of text, unless that is None, or as JSON by its name and values."""
        if self._form == "jsonl":
            say(json.dumps({"event": event, **values}))
        elif line is not None:
            say(line)

    def note(self, text: str) -> None:
        self.tell("note", text, text=text)

    def failed(self, where: object, reason: str) -> None:
        """A picture has failed; people read of it on stderr."""
        self.tell("failed", None, input=str(where), error=reason)

    def outputs(self, event: str, line: str, input: object, outputs: Mapping[str, str], **values: object) -> None:
        """A picture with its files."""
        self.tell(event, line, input=str(input), outputs=dict(outputs), **values)
