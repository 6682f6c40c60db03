"""Patterns of the formats that strings of a JSON schema may have, and of those of Python that regex engines lack.

What a format lets through has to be read by what parses it behind the model (pydantic above all), so that these are
narrower than llguidance's own where those aren't: no 30th of February, no address without a dot.
"""

from __future__ import annotations

import re

_D4 = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_D4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_ZONE = r"(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])"
_N = r"[0-9]{1,4}"
_TIME_PART = rf"T(?:{_N}H(?:{_N}M)?(?:{_N}S)?|{_N}M(?:{_N}S)?|{_N}S)"
_DURATION = rf"P(?:{_N}W|{_N}D(?:{_TIME_PART})?|{_TIME_PART})"
_LABEL = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_HOST = rf"(?:{_LABEL}\.)*[A-Za-z]{{2,24}}"
_LOCAL = r"[A-Za-z0-9_]+(?:[.+-][A-Za-z0-9_]+)*"
_PLAIN = r"A-Za-z0-9._~!$&'()*+,;=:@/-"
_REST = rf"(?::[1-9][0-9]{{0,3}})?(?:/[{_PLAIN}]*)?(?:\?[?{_PLAIN}]*)?(?:#[A-Za-z0-9._~/-]*)?"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_IPV6 = r"(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,5}:[0-9a-f]{1,4}|::1"
_NET4 = rf"(?:{_IPV4}(?:/32)?|{_OCTET}(?:\.{_OCTET}){{2}}\.0/24|{_OCTET}\.{_OCTET}\.0\.0/16|{_OCTET}\.0\.0\.0/8)"
_NET6 = rf"(?:(?:{_IPV6})(?:/128)?|(?:[0-9a-f]{{1,4}}:){{4}}:/64)"
_HEX = "[0-9a-f]"

FORMATS = {
    "date": _DATE,
    "time": rf"{_CLOCK}{_ZONE}?",
    "date-time": rf"{_DATE}T{_CLOCK}{_ZONE}",
    "duration": _DURATION,
    "email": rf"{_LOCAL}@(?:{_LABEL}\.)+[A-Za-z]{{2,24}}",
    "idn-email": rf"{_LOCAL}@(?:{_LABEL}\.)+[A-Za-z]{{2,24}}",
    "uuid": rf"{_HEX}{{8}}-{_HEX}{{4}}-[1-8]{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}",
    **{f"uuid{n}": rf"{_HEX}{{8}}-{_HEX}{{4}}-{n}{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}" for n in range(1, 9)},
    "ipvanyaddress": _IPV4,
    "ipv4network": _NET4,
    "ipvanynetwork": _NET4,
    "ipv6network": _NET6,
    "ipv4interface": rf"{_IPV4}(?:/(?:3[0-2]|[12]?[0-9]))?",
    "ipvanyinterface": rf"{_IPV4}(?:/(?:3[0-2]|[12]?[0-9]))?",
    "ipv6interface": rf"(?:{_IPV6})(?:/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9]))?",
    # Of text in ASCII, since what is decoded has to be text again.
    "base64": r"(?:[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/])*"
    r"(?:[A-Za-f][AQgw]==|[A-Za-f][A-HQ-Xg-nw-z0-3][AEIMQUYcgkosw048]=)?",
    "base64url": r"(?:[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9_-])*"
    r"(?:[A-Za-f][AQgw]==|[A-Za-f][A-HQ-Xg-nw-z0-3][AEIMQUYcgkosw048]=)?",
    "regex": r"(?:[A-Za-z0-9 _-]|\\[dwsDWS.])*",
    "name-email": rf"(?:[A-Za-z]+ )+<{_LOCAL}@(?:{_LABEL}\.)+[A-Za-z]{{2,24}}>",
}
"""What a string of a format is held to, in full, where llguidance has nothing or lets more through."""

NATIVE = frozenset({"hostname", "ipv4", "ipv6", "uri", "unknown"})
"""Formats that llguidance knows as well. All others are notes for the reader."""


def url_pattern(schemes: tuple[str, ...]) -> str:
    """Return the pattern of URLs of these schemes, any of which are `scheme://host`."""
    named = "|".join(re.escape(scheme).replace(r"\-", "-") for scheme in schemes) or "[a-z][a-z0-9+.-]*"
    return rf"^(?:{named})://{_HOST}{_REST}$"


def holdable_pattern(pattern: str) -> str | None:
    """Return a pattern as llguidance reads it, which allows no more; None where there is none.

    pydantic writes decimals with a look-ahead that asks for a digit; anchors of Python are written as others do.
    """
    pattern = pattern.replace(r"\Z", "$").replace(r"\z", "$").replace(r"\A", "^")
    if pattern.startswith(r"^(?!^[-+.]*$)[+-]?0*\d"):
        pattern = "^[+-]?0*" + re.sub(
            r"^\\d(\*|\{0,(\d+)\})", lambda m: r"\d+" if m[1] == "*" else rf"\d{{1,{m[2]}}}", pattern[21:]
        )
    if re.search(r"\(\?(?:[!=]|<[!=])|(?<!\\)(?:\\\\)*\\(?:[bB]|[1-9])", pattern):
        return None
    return pattern
