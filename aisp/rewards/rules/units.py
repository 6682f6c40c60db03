"""Words, sentences, syllables: what rules count."""

from __future__ import annotations

import re

# The look behind keeps a run of marks that ends no sentence from being read again from each of them.
_END = re.compile(r"(?<![.!?…])([.!?…]+)[\"'”’»)\]*_]*(?=\s|$)|[。！？]+[”’」』）]*")
# After these a full stop ends no sentence, as a rule: abbreviations, and a capital letter that is not "I".
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:(?i:mr|mrs|ms|dr|prof|st|sr|jr|gen|col|sgt|capt|lt|rev|hon|sen|rep|gov|pres|vs|viz|cf|fig|vol|dept|est"
    r"|approx|inc|ltd|corp|co|bros|jan|feb|mar|apr|aug|sept|oct|nov|dec|u\.s|u\.k|u\.n|e\.g|i\.e|a\.m|p\.m|b\.c|a\.d"
    r"|ph\.d)|(?<![^\W\d_]\.)[A-HJ-Z])\.$"
)
# Nor do these before a small letter: letters with full stops, and several full stops.
_OPEN = re.compile(r"(?:[^\W\d_]\.[^\W\d_]|\.|…|^)[.…]$")
_LONGEST = 16
_WORD = re.compile(r"([^\W\d_]+)\.$")
_INITIALS = re.compile(r"(?<![^\W_])[^\W\d_](?:\.[^\W\d_])+\.$")
_LONGEST = 16
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_VOWELS = re.compile(r"[aeiouyàáâäæèéêëìíîïòóôöœùúûü]+")
_SILENT = re.compile(r"(?:[^aeiouy]e|[^aeiouycgsxz]es|[^aeiouydt]ed|(?<![cs])hes)$")
_SOUNDED = re.compile(r"(?:[^aeiouywrln]les?|[cs]hes)$")
# Two vowels that are a syllable each, and ends that have one without a vowel.
_HIATUS = re.compile(
    r"(?<![tscgxn])i[ao](?!u)|(?<![tscx])iou|[^gq]u[ao]|[aou]ing$|sm$|poe|ide[ao]|eate[ds]?$|(?<=[^aeiouy])ye"
)


def count_words(text: str) -> int:
    """Count runs without blanks."""
    return len(text.split())


def count_sentences(text: str) -> int:
    """Count sentences. See `sentences`."""
    return len(sentences(text))


def sentences(text: str) -> list[str]:
    """Split into sentences: ends by . ! ?, and a rest without one.

    A full stop after an abbreviation or an initial doesn't end one, nor do several before a small letter.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        if not _goes_on(text, end):
            found.append(text[start : end.end()].strip())
            start = end.end()
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def words(text: str) -> list[str]:
    """Return the words of a text: letters, with apostrophes inside."""
    return _WORD.findall(text)


def count_syllables(word: str) -> int:
    """Estimate the syllables of an English word, by its letters; at least 1."""
    word = word.lower()
    silent = _SILENT.search(word) is not None and _SOUNDED.search(word) is None
    return max(len(_VOWELS.findall(word)) - silent + len(_HIATUS.findall(word)), 1)


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Return whether the sentence goes on after what may have been its end."""
    mark = end[1]
    if mark is None or "!" in mark or "?" in mark:
        return False
    before = text[max(end.start() - _LONGEST, 0) : end.end(1)]
    if _ABBREVIATION.search(before):
        return True
    return _OPEN.search(before) is not None and text[end.end() : end.end() + _LONGEST].lstrip()[:1].islower()
