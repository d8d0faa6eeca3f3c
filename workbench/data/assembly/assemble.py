"""From examples of several sources to training and validation data.

1. Labels of all sources are compared; what is labelled both ways is left out of that stage.
2. Groups are drawn up to the limit; what the model cannot read is left out.
3. Groups are split: the same prompt, once normalised, never stands on both sides.
4. Prompts are compared with the evaluation sets named, and training with validation.
5. The larger class of the training data is cut down to the balance asked for.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from workbench.data.assembly.config import AssemblyConfig
from workbench.data.assembly.groups import held_out_groups, seeded_order
from workbench.data.assembly.report import (
    ClassCount,
    DataReport,
    Kind,
    LeftOut,
    SetOverlap,
    Split,
    StageData,
)
from workbench.data.assembly.selection import (
    GroupedRow,
    Tally,
    WhyNot,
    grouped,
    labelled,
    readable,
)
from workbench.data.assembly.truth import Row, Truth
from workbench.data.contamination import check_contamination
from workbench.data.example import Example
from workbench.data.training import LabelledPair, LabelledPrompt, SafeTarget, ValueData
from workbench.errors import DataError

_SHOWN_PAIRS = 20


@dataclass(frozen=True, eq=False)
class Assembled:
    """Training data, validation data, and what became of every row."""

    train: ValueData
    validation: ValueData
    report: DataReport


@dataclass(frozen=True)
class _Used:
    """One example of a stage and where it comes from."""

    source: str
    group: str
    prompt_key: str
    stage: StageData
    kind: Kind
    item: LabelledPrompt | LabelledPair | SafeTarget


def assemble(
    sources: Mapping[str, Sequence[Example]],
    config: AssemblyConfig,
    *,
    seed: int,
    why_not: WhyNot = lambda prompt, response: None,
    needs_contrast: bool = False,
    against: Mapping[str, Sequence[Example]] | None = None,
) -> Assembled:
    """Make the three stages' data of labelled examples.

    Args:
        sources: Examples by the name of their source.
        config: What is taken, and how it is split.
        seed: Decides what is drawn, held out and left out for balance.
        why_not: What the model cannot read.
        needs_contrast: Stage 3 compares with harmful replies: targets without one are left out.
        against: Evaluation sets that the training should not hold.

    Raises:
        DataError: A stage has no examples, or only one class; what to add is named.
    """
    tally: Tally = Counter()
    rows = [Row.of(name, example) for name, examples in sources.items() for example in examples]
    truth = Truth.of(rows)
    kept = readable(grouped(labelled(rows, tally)), config.max_per_source, why_not, seed, tally)
    used = _uses(kept, truth, needs_contrast, tally)
    _require_all_stages(used, "data")
    overlaps: list[SetOverlap] = []
    for name, examples in (against or {}).items():
        used, overlap = _compared(used, examples, name, kept, config.drop_overlaps, tally)
        overlaps.append(overlap)
    held = held_out_groups(_signatures(used), config.validation_share, seed)
    train = [one for one in used if one.group not in held]
    validation = [one for one in used if one.group in held]
    train, between = _train_against_validation(train, validation, kept, config.drop_overlaps, tally)
    train = _balanced(train, config.balance, seed, tally)
    _require_all_stages(train, "training data")
    _require_all_stages(validation, "validation data")
    return Assembled(
        _value_data(train),
        _value_data(validation),
        DataReport(
            [*_counts(train, "train"), *_counts(validation, "validation")],
            [LeftOut(source, reason, n) for (source, reason), n in sorted(tally.items())],
            [*overlaps, between],
        ),
    )


def _uses(
    rows: Sequence[GroupedRow], truth: Truth, needs_contrast: bool, tally: Tally
) -> list[_Used]:
    """What each stage reads, without repetitions and contradictions."""
    prompts = _first_ones(rows, truth, "prompts", tally)
    pairs = _first_ones(rows, truth, "pairs", tally)
    return [
        *(_prompt(one) for one in prompts),
        *(_pair(one, truth) for one in pairs),
        *_targets(pairs, truth, needs_contrast, tally),
    ]


def _first_ones(
    rows: Sequence[GroupedRow], truth: Truth, stage: Literal["prompts", "pairs"], tally: Tally
) -> list[GroupedRow]:
    """The first row of every labelled prompt or pair about which all labels agree."""
    what, number = ("prompt", "stage 1") if stage == "prompts" else ("pair", "stage 2")
    seen: set[object] = set()
    found = []
    for one in rows:
        row = one.row
        key = row.prompt_key if stage == "prompts" else row.pair_key
        label = row.prompt_harm if stage == "prompts" else row.response_harm
        if label is None:
            continue
        labels = truth.prompts[row.prompt_key] if stage == "prompts" else truth.pairs[row.pair_key]
        if len(labels) > 1:
            tally[row.source, f"{what} labelled both ways ({number})"] += 1
        elif key in seen:
            tally[row.source, f"{what} that stands there already ({number})"] += 1
        else:
            seen.add(key)
            found.append(one)
    return found


def _prompt(one: GroupedRow) -> _Used:
    harmful = bool(one.row.prompt_harm)
    item = LabelledPrompt(one.row.example.prompt, harmful, one.group)
    return _used(one, "prompts", "harmful" if harmful else "harmless", item)


def _pair(one: GroupedRow, truth: Truth) -> _Used:
    harmful = bool(one.row.response_harm)
    item = LabelledPair(
        one.row.example.prompt,
        _reply(one),
        harmful,
        one.group,
        ambiguous=len(truth.replies[one.row.response_key]) > 1,
    )
    return _used(one, "pairs", "harmful" if harmful else "harmless", item)


def _targets(
    pairs: Sequence[GroupedRow], truth: Truth, needs_contrast: bool, tally: Tally
) -> list[_Used]:
    """Safe replies, each with a harmful one to the same prompt where there is one."""
    harmful: dict[str, list[str]] = defaultdict(list)
    for one in pairs:
        if one.row.response_harm:
            harmful[one.row.prompt_key].append(_reply(one))
    n_of_prompt: Counter[str] = Counter()
    found = []
    for one in pairs:
        row = one.row
        if row.response_harm:
            continue
        if truth.prompts.get(row.prompt_key) == {False}:
            tally[row.source, "safe reply to a harmless prompt (stage 3)"] += 1
            continue
        others = harmful[row.prompt_key]
        if needs_contrast and not others:
            tally[row.source, "no harmful reply to compare with (stage 3)"] += 1
            continue
        contrast = others[n_of_prompt[row.prompt_key] % len(others)] if others else None
        n_of_prompt[row.prompt_key] += 1
        item = SafeTarget(row.example.prompt, _reply(one), contrast, one.group)
        kind: Kind = "without contrast" if contrast is None else "with contrast"
        found.append(_used(one, "targets", kind, item))
    return found


def _used(
    one: GroupedRow,
    stage: StageData,
    kind: Kind,
    item: LabelledPrompt | LabelledPair | SafeTarget,
) -> _Used:
    return _Used(one.row.source, one.group, one.row.prompt_key, stage, kind, item)


def _reply(one: GroupedRow) -> str:
    assert one.row.example.response is not None, "labelled replies exist"
    return one.row.example.response


def _signatures(used: Sequence[_Used]) -> dict[str, frozenset[tuple[str, str, str]]]:
    """What each group holds: sources, stages and classes."""
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for one in used:
        found[one.group].add((one.source, one.stage, one.kind))
    return {name: frozenset(held) for name, held in found.items()}


def _different_prompts(used: Iterable[_Used], rows: Sequence[GroupedRow]) -> dict[str, Example]:
    """One example of every prompt in use, named by its source, by prompt key."""
    wanted = {one.prompt_key for one in used}
    found: dict[str, Example] = {}
    for one in rows:
        row = one.row
        if row.prompt_key in wanted and row.prompt_key not in found:
            name = f"{row.source}: {row.example.id}"
            found[row.prompt_key] = replace(row.example, id=name)
    return found


def _compared(
    used: Sequence[_Used],
    other: Sequence[Example],
    name: str,
    rows: Sequence[GroupedRow],
    drop: bool,
    tally: Tally,
    ours: str = "train and validation",
) -> tuple[list[_Used], SetOverlap]:
    """Compare the prompts in use with another set's; leave out what both hold where asked to."""
    prompts = _different_prompts(used, rows)
    report = check_contamination(list(prompts.values()), other)
    shared = report.ids("first")
    keys = {key for key, example in prompts.items() if example.id in shared} if drop else set()
    for one in used:
        if one.prompt_key in keys:
            tally[one.source, f"prompt that {name} holds too ({one.stage})"] += 1
    return [one for one in used if one.prompt_key not in keys], SetOverlap(
        ours=ours,
        other=name,
        n_ours=len(prompts),
        n_other=len(other),
        exact=report.n_items("exact"),
        near=report.n_items("near"),
        dropped=len(keys),
        pairs=tuple(f"{pair.first} = {pair.second}" for pair in report.overlaps[:_SHOWN_PAIRS]),
    )


def _train_against_validation(
    train: Sequence[_Used],
    validation: Sequence[_Used],
    rows: Sequence[GroupedRow],
    drop: bool,
    tally: Tally,
) -> tuple[list[_Used], SetOverlap]:
    """No prompt is equal, since groups are split whole; some can be nearly equal."""
    held = list(_different_prompts(validation, rows).values())
    return _compared(train, held, "validation", rows, drop, tally, "train")


def _balanced(train: Sequence[_Used], ratio: float | None, seed: int, tally: Tally) -> list[_Used]:
    """The training examples, the larger class of stages 1 and 2 cut down to the ratio."""
    if ratio is None:
        return list(train)
    surplus: set[int] = set()
    for stage in ("prompts", "pairs"):
        by_kind: dict[str, list[int]] = {"harmful": [], "harmless": []}
        for index, one in enumerate(train):
            if one.stage == stage:
                by_kind[one.kind].append(index)
        fewer, more = sorted(by_kind.values(), key=len)
        order = seeded_order((f"{stage} {index}" for index in more), seed)
        surplus.update(int(name.split()[1]) for name in order[int(ratio * len(fewer)) :])
    for index in surplus:
        tally[train[index].source, f"beyond the balance ({train[index].stage})"] += 1
    return [one for index, one in enumerate(train) if index not in surplus]


def _value_data(used: Sequence[_Used]) -> ValueData:
    items = [one.item for one in used]
    return ValueData(
        prompts=[item for item in items if isinstance(item, LabelledPrompt)],
        pairs=[item for item in items if isinstance(item, LabelledPair)],
        targets=[item for item in items if isinstance(item, SafeTarget)],
    )


def _counts(used: Sequence[_Used], split: Split) -> list[ClassCount]:
    found = Counter((one.source, one.stage, one.kind) for one in used)
    return [ClassCount(source, stage, split, kind, n) for (source, stage, kind), n in found.items()]


_ADVICE = {
    "prompts": "stage 1 reads prompts labelled harmful or harmless: add wildguardmix, xstest or "
    "jailbreakbench, or a JSON Lines file with prompt_harm",
    "pairs": "stage 2 reads replies labelled harmful or harmless: add wildguardmix, beavertails or "
    "pku-saferlhf, or a JSON Lines file with response_harm",
    "targets": "stage 3 reads safe replies to prompts that are not labelled harmless: add "
    "wildguardmix, beavertails or pku-saferlhf, or a JSON Lines file with response_harm",
}


def _require_all_stages(used: Sequence[_Used], what: str) -> None:
    """Check that every stage has examples, of both classes where there are two.

    Raises:
        DataError: One has not; what to add is named.
    """
    for stage, advice in _ADVICE.items():
        kinds = {one.kind for one in used if one.stage == stage}
        wanted = 1 if stage == "targets" else 2
        if len(kinds) >= wanted:
            continue
        found = f"only {next(iter(kinds))} {stage}" if kinds else f"no {stage}"
        if what == "validation data":
            advice = "too few groups are held out: raise --validation-share, or give more examples"
        raise DataError(f"the {what} hold {found}; {advice}")
