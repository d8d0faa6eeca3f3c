"""What all sources together say of a prompt, of a pair, and of a reply's text."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.data.example import Example
from workbench.data.normalising import content_key, prompt_text
from workbench.errors import DataError


@dataclass(frozen=True)
class Row:
    """One example with what tells whether two of them say the same.

    Attributes:
        source: Name of its source.
        example: The example.
        prompt_key: Equal for equal prompts, once normalised.
        response_key: Equal for equal replies; empty where there is none.
    """

    source: str
    example: Example
    prompt_key: str
    response_key: str

    @classmethod
    def of(cls, source: str, example: Example) -> "Row":
        """The row of an example."""
        reply = example.response
        return cls(
            source,
            example,
            content_key(prompt_text(example.prompt)),
            "" if reply is None else content_key(reply),
        )

    @property
    def pair_key(self) -> tuple[str, str]:
        """Equal for equal pairs."""
        return self.prompt_key, self.response_key

    @property
    def prompt_harm(self) -> bool | None:
        """Whether the source calls the prompt harmful; None where it does not say."""
        return _harm(self.example, "prompt_harm")

    @property
    def response_harm(self) -> bool | None:
        """Whether it calls the reply harmful; None where it does not say or there is none."""
        return _harm(self.example, "response_harm") if self.response_key else None


def _harm(example: Example, name: str) -> bool | None:
    label = example.labels.get(name)
    if label is None or isinstance(label, bool):
        return label
    raise DataError(
        f"example {example.id} of {example.source} has the label {name} = {label!r}; true, false "
        "or none is needed"
    )


@dataclass(frozen=True, eq=False)
class Truth:
    """Labels by what they are of; two labels are a contradiction.

    Attributes:
        prompts: By prompt.
        pairs: By prompt and reply.
        replies: By reply alone, over all prompts.
    """

    prompts: dict[str, set[bool]]
    pairs: dict[tuple[str, str], set[bool]]
    replies: dict[str, set[bool]]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Truth":
        """Gather what all rows say."""
        truth = cls(defaultdict(set), defaultdict(set), defaultdict(set))
        for row in rows:
            if row.prompt_harm is not None:
                truth.prompts[row.prompt_key].add(row.prompt_harm)
            if row.response_harm is not None:
                truth.pairs[row.pair_key].add(row.response_harm)
                truth.replies[row.response_key].add(row.response_harm)
        return truth
