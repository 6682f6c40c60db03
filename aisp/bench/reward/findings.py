"""What is wrong with a reward, in words. The thresholds are all here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aisp.bench.reward.measures import Correlation
from aisp.bench.reward.result import Complaint, RewardCheck
from aisp.rewards.findings import VETOED_FRACTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits from which on a finding is reported.

    Args:
        vetoed_fraction: Share of vetoed responses.
        distinct_fraction: Share of different responses below which the samples say little.
        saturated_fraction: Share of responses with exactly the highest value.
        sparse_fraction: Share of responses with exactly the lowest value.
        tied_fraction: Tied pairs of different responses to one prompt.
        between_share: Share of the variance that lies between prompts.
        length: Rank correlation with the number of words, in absolute value.
        contradiction: Rank correlation of two parts, at most this.
        redundancy: Rank correlation of two parts, at least this.
        leading: A part whose rank correlation with the whole is at least this leads, and
        idle: one whose correlation with the whole is then at most this, in absolute value, is idle.
        noise: Largest change between two scorings, in standard deviations within prompts.
        seconds: Seconds that scoring a candidate takes.
        standard_errors: How far from 0 a correlation must be to be reported.
    """

    vetoed_fraction: float = VETOED_FRACTION
    distinct_fraction: float = 0.5
    saturated_fraction: float = 0.5
    sparse_fraction: float = 0.8
    tied_fraction: float = 0.5
    between_share: float = 0.9
    length: float = 0.7
    contradiction: float = -0.5
    redundancy: float = 0.95
    leading: float = 0.95
    idle: float = 0.2
    noise: float = 0.01
    seconds: float = 1.0
    standard_errors: float = 3.0


def complaints(check: RewardCheck, at: Thresholds) -> tuple[Complaint, ...]:
    """Return what is wrong, the worst first."""
    said = [*_counts(check, at)]
    if check.usable:
        said += [*_values(check, at), *_length(check, at), *_parts(check, at), *_repeats(check, at)]
    if check.seconds_per_candidate >= at.seconds:
        budget = 64
        said.append(
            Complaint(
                kind="cost",
                text=f"a candidate takes {check.seconds_per_candidate:.1f} s: a budget of {budget} spends "
                f"{budget * check.seconds_per_candidate:.0f} s on scoring",
            )
        )
    return tuple(said)


def _counts(check: RewardCheck, at: Thresholds) -> Iterator[Complaint]:
    if check.failed:
        text = f"{check.failed} of {check.responses} responses could not be scored; the first: {check.first_error}"
        yield Complaint(kind="failed", text=text)
    if check.out_of_range:
        low, high = check.bounds or (None, None)
        text = f"{_percent(check.out_of_range / check.responses)} of responses lie outside the range {low} to {high}"
        yield Complaint(kind="out_of_range", text=f"{text} that it is said to keep")
    if check.vetoed >= at.vetoed_fraction * check.responses:
        text = f"{_percent(check.vetoed / check.responses)} of responses are vetoed: a search finds little to return"
        yield Complaint(kind="vetoed", text=text)
    if check.distinct < at.distinct_fraction * check.responses:
        share = _percent(check.distinct / check.responses)
        text = f"only {share} of the model's own samples differ: raise the temperature or max_tokens"
        yield Complaint(kind="samples", text=text)


def _values(check: RewardCheck, at: Thresholds) -> Iterator[Complaint]:
    spread, ties = check.spread, check.ties
    if spread is None or ties is None:
        return
    if ties.values == 1:
        yield Complaint(kind="constant", text=f"every response gets exactly {spread.high:g}: nothing to optimise")
        return
    if ties.at_high >= at.saturated_fraction:
        much = "nothing" if ties.at_high >= 0.9 else "little"
        text = f"{_percent(ties.at_high)} of responses get exactly {spread.high:g}: {much} to optimise"
        yield Complaint(kind="saturated", text=text)
    elif ties.at_low >= at.sparse_fraction:
        text = f"{_percent(ties.at_low)} of responses get exactly {spread.low:g}, the lowest value"
        yield Complaint(kind="sparse", text=f"{text}: nothing to climb by until a search chances on a better one")
    elif ties.tied_pairs >= at.tied_fraction:
        share = _percent(ties.tied_pairs)
        text = f"{share} of the pairs of different responses to one prompt are tied ({ties.values} values in all)"
        yield Complaint(kind="ties", text=f"{text}: too coarse to rank by")
    if spread.between_share >= at.between_share:
        text = f"{_percent(spread.between_share)} of its variance lies between prompts: it tells prompts apart"
        yield Complaint(kind="prompts", text=f"{text} rather than answers")


def _length(check: RewardCheck, at: Thresholds) -> Iterator[Complaint]:
    found = check.length
    if found.value is not None and abs(found.value) >= at.length and _sure(found, at):
        which = "longer" if found.value > 0 else "shorter"
        text = f"{which} responses score higher (rank correlation {found.value:+.2f} with the number of words)"
        yield Complaint(kind="length", text=f"{text}: a search will mostly make responses {which}")


def _parts(check: RewardCheck, at: Thresholds) -> Iterator[Complaint]:
    if len(check.parts) < 2:
        return
    whole = {name: check.part_and_whole[name].value for name in check.parts}
    varying = {name: value for name, value in whole.items() if value is not None}
    for name in check.parts:
        if name not in varying and check.ties is not None and check.ties.values > 1:
            yield Complaint(kind="idle", text=f"the part {name!r} gives all responses to a prompt the same value")
    for (one, other), found in check.agreement.items():
        if found.value is None or not _sure(found, at):
            continue
        if found.value <= at.contradiction:
            text = f"the parts {one!r} and {other!r} contradict each other (rank correlation {found.value:+.2f})"
            yield Complaint(kind="contradiction", text=f"{text}: what raises one lowers the other")
        elif found.value >= at.redundancy:
            text = f"the parts {one!r} and {other!r} say the same (rank correlation {found.value:+.2f})"
            yield Complaint(kind="redundant", text=f"{text}: one of them would do")
    leader = max(varying, key=lambda name: varying[name], default=None)
    for name, value in varying.items():
        if leader is not None and name != leader and varying[leader] >= at.leading and abs(value) <= at.idle:
            text = f"the part {name!r} hardly matters: the whole ranks as {leader!r} does ({varying[leader]:+.2f})"
            yield Complaint(kind="idle", text=f"{text}; weigh it more, or leave it out")


def _repeats(check: RewardCheck, at: Thresholds) -> Iterator[Complaint]:
    unit = 0.0 if check.spread is None else check.spread.within_prompts
    for kind, repeat, how in (
        ("order", check.again, "scored again in another order"),
        ("batch", check.alone, "scored one at a time"),
    ):
        if repeat.changed and repeat.largest > at.noise * unit:
            text = f"{how}, {_percent(repeat.changed)} of responses get another value, by up to {repeat.largest:.3g}"
            relative = f" ({repeat.largest / unit:.2g} standard deviations)" if unit else ""
            yield Complaint(kind=kind, text=f"{text}{relative}: verdicts aren't reproducible")  # type: ignore[arg-type]


def _sure(found: Correlation, at: Thresholds) -> bool:
    return abs(found.z) >= at.standard_errors


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
