"""What all sources share: where a set comes from, which columns it has, and how rows are read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbench.data.example import Conversation, Example, Label, as_conversation
from workbench.data.normalising import content_key, prompt_text
from workbench.data.sources.hub import HubSet, access_steps, hub_rows
from workbench.data.sources.labels import Cell, known
from workbench.data.sources.tables import Row, read_rows
from workbench.errors import DataError

Schemas = Mapping[str, Sequence["Layout"]]
"""The layouts of all sources by name, to say which set a file looks like."""


@dataclass(frozen=True)
class RowPlace:
    """Where a row stands, for messages and for ids.

    Attributes:
        where: the file or hub set, and the row.
        id: the row's id where the set itself gives none: the source's name and the row.
    """

    where: str
    id: str

    def cell(self, column: str) -> str:
        """How messages name one cell."""
        return f"{self.where}: column '{column}'"


Reader = Callable[[Row, RowPlace], Iterable[Example]]


@dataclass(frozen=True)
class Layout:
    """One shape in which a set is published.

    Attributes:
        columns: those that are needed; others are allowed and ignored.
        read: the examples of one row; ``source`` and ``group`` are filled in afterwards.
        what: the layout in words.
    """

    columns: tuple[str, ...]
    read: Reader
    what: str = "rows"

    def missing(self, present: Iterable[str]) -> list[str]:
        """The needed columns that are absent."""
        there = set(present)
        return [column for column in self.columns if column not in there]


@dataclass(frozen=True)
class Source:
    """One published benchmark.

    Attributes:
        name: the word that command lines and ``Example.source`` use.
        title: its name in prose, with the paper.
        licence: of the data.
        layouts: shapes of its files, the most specific first.
        hub: named parts on the Hugging Face hub, the default first; empty where the publisher
            keeps the files elsewhere.
        steps: how to get the files by hand.
    """

    name: str
    title: str
    licence: str
    layouts: tuple[Layout, ...]
    hub: Mapping[str, HubSet] = field(default_factory=dict)
    steps: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the first layout."""
        return self.layouts[0].columns

    def load(
        self,
        path: str | Path | None = None,
        *,
        part: str | None = None,
        revision: str | None = None,
        others: Schemas | None = None,
    ) -> list[Example]:
        """Read the examples from a local file, or from the hub where ``path`` is None.

        Args:
            path: a csv, json, jsonl or parquet file, possibly with .gz.
            part: a key of :attr:`hub`; the first by default.
            revision: a hub revision instead of the pinned one.
            others: layouts of the other sources, named when the columns are theirs.

        Raises:
            DataError: Columns are missing, a cell has no value that the set knows, an id stands
                there twice, or the hub or file cannot be read.
            ConfigError: The hub is asked for and the ``data`` extra is not installed.
        """
        if path is not None:
            rows, where = self._rows_of_file(path), str(path)
        else:
            hub_set = self._hub_set(part, revision)
            rows, where = hub_rows(hub_set, self.steps), str(hub_set)
        layout = self._layout(rows[0][1], where, others or {})
        return self._examples(rows, layout, where)

    def _rows_of_file(self, path: str | Path) -> list[tuple[int, Row]]:
        """The rows of a file; where there is none, how to get it."""
        try:
            return read_rows(path)
        except DataError as error:
            if Path(path).exists():
                raise
            gated = next((found.id for found in self.hub.values() if found.gated), None)
            access = "" if gated is None else f"{access_steps(gated)}, then "
            raise DataError(f"{error}: {access}{self.steps}") from error

    def _hub_set(self, part: str | None, revision: str | None) -> HubSet:
        if not self.hub:
            raise DataError(
                f"{self.name} has no set on the Hugging Face hub that is known here; {self.steps}"
            )
        name = part or next(iter(self.hub))
        if name not in self.hub:
            raise DataError(f"{self.name} has the parts {', '.join(self.hub)}, not '{name}'")
        found = self.hub[name]
        return found if revision is None else replace(found, revision=revision)

    def _layout(self, row: Row, where: str, others: Schemas) -> Layout:
        for layout in self.layouts:
            if not layout.missing(row):
                return layout
        closest = min(self.layouts, key=lambda layout: len(layout.missing(row)))
        missing = ", ".join(f"'{column}'" for column in closest.missing(row))
        raise DataError(
            f"{where} is no file of {self.name}: it lacks {missing} and has "
            f"{', '.join(map(str, row))}{_resemblance(row, others, self.name)}"
        )

    def _examples(
        self, rows: Sequence[tuple[int, Row]], layout: Layout, where: str
    ) -> list[Example]:
        examples: list[Example] = []
        seen: dict[str, int] = {}
        for number, row in rows:
            place = RowPlace(f"{where}, row {number}", f"{self.name}/{number}")
            missing = layout.missing(row)
            if missing:
                raise DataError(f"{place.where} lacks '{missing[0]}'")
            for example in layout.read(row, place):
                if example.id in seen:
                    raise DataError(
                        f"{place.where}: the id '{example.id}' stands in row {seen[example.id]} "
                        "already; remove one of the rows"
                    )
                seen[example.id] = number
                examples.append(_completed(example, self.name))
        return examples


def make_example(
    id: str,
    prompt: str | Conversation,
    response: str | None = None,
    *,
    labels: Mapping[str, Label],
    group: str = "",
) -> Example:
    """An example with the labels that are known; the source's name is filled in by the loader."""
    return Example(
        id=id,
        prompt=as_conversation(prompt),
        response=response,
        labels=known(labels),
        group=group,
    )


def own_id(cell: Cell, place: RowPlace) -> str:
    """The set's own id of a row, or the row's place where the cell is empty."""
    return str(cell) if cell not in (None, "") else place.id


def _completed(example: Example, source: str) -> Example:
    """Examples with the same prompt share a group, whatever source they come from."""
    group = example.group or content_key(prompt_text(example.prompt))
    return replace(example, source=source, group=group)


def _resemblance(row: Row, others: Schemas, own: str) -> str:
    for name, layouts in others.items():
        if name != own and any(not layout.missing(row) for layout in layouts):
            return f"; it looks like {name} (`{name}:PATH`)"
    return ""
