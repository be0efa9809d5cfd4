"""Names that strangers could give: each is harmless text, if it is taken for text.

Whatever is run of them calls ``canary``; whatever becomes markup is an element ``x-canary``, or has
an attribute that no page of ours has.
"""

from __future__ import annotations

MARKUP = (
    "<x-canary>",
    "<script>canary(1)</script>",
    "<img src=x onerror=canary(2)>",
    '"><svg onload=canary(3)><x-canary>',
    "'><x-canary onfocus=canary(4) tabindex=0 autofocus>",
    "</script><script>canary(5)</script>",
    "</title></textarea></style></noscript><x-canary><script>canary(6)</script>",
    "<iframe srcdoc='<script>parent.canary(7)</script>'></iframe>",
    '<a href="javascript:canary(8)">press</a><x-canary>',
    "<math><mtext><table><mglyph><style><img src onerror=canary(9)>",
    "<svg><animate onbegin=canary(10) attributeName=x></svg>",
    "<details open ontoggle=canary(11)><x-canary>",
    "<object data='javascript:canary(12)'></object><embed src='javascript:canary(13)'>",
    "<form action='javascript:canary(14)'><input type=submit></form><x-canary>",
    "<base href='http://evil.example/'><meta http-equiv=refresh content='0;url=javascript:canary(15)'>",
    "&lt;x-canary&gt;&#60;x-canary&#62;\\u003cx-canary\\u003e%3Cx-canary%3E",
    "<![CDATA[<x-canary>]]><!--><x-canary>-->",
    "[press](javascript:canary(16)) ![x](x 'onerror=canary(17)')",
)
WHOLE = (
    "javascript:canary(20)",
    "data:text/html,<script>canary(21)</script>",
    "'-canary(22)-'",
    '";canary(23);//',
    "`-canary(24)-`${canary(25)}",
    "{{canary(26)}}{{constructor.constructor('canary(27)')()}}#{canary(28)}<%= canary(29) %>",
    "%s%n%x%1$s{0}{self.__class__}{run}",
    "params.value;canary(30)",
    "canary(31)",
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "toString",
    "../../login#x",
    "//evil.example/x",
    "a\r\nSet-Cookie: x=y\r\n\r\n<x-canary>",
    "\x1b[2J\x1b[1;1H\x9b31m\x07",
    "\u202egnp.<x-canary>\u2066\u200b\ufeff",
    "Z\u0351\u036b\u0343\u036a\u0302\u0365\u034d" * 20,
    "\U0001f600" * 60,
    "W" * 200,
    " ",
)
FORMULAS = (
    '=HYPERLINK("http://evil.example","press")',
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\uff1d1+1",
    "=cmd|' /C calc'!A0",
    '","=1+1',
)
ALL = tuple(name[:200] for name in (*MARKUP, *WHOLE, *FORMULAS))


def joined(most: int) -> list[str]:
    """The markup in few texts of at most ``most`` characters, each payload whole."""
    found = [""]
    for payload in MARKUP:
        if len(found[-1]) + len(payload) > most:
            found.append("")
        found[-1] += payload
    return found
