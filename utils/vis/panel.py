"""The text of a run on the live page: what it is, how far, how good; and the list of runs on a server."""

import html
from collections.abc import Iterable, Sequence
from urllib.parse import quote

Facts = list[tuple[str, str]]  # (label, text)
LABELS = ("data", "network", "device", "run")  # of the lines of a run's start that the page repeats
MAX_TEXT = 300  # letters of a fact


def facts_of(lines: Iterable[str]) -> Facts:
    """The lines of a run's start as facts: those that begin with one of LABELS.

    >>> facts_of(["data    demo", "        160 x 160", "network unet"])
    [('data', 'demo'), ('network', 'unet')]
    """
    words = (line.partition(" ") for text in lines for line in text.split("\n"))
    return [(label, text.strip()[:MAX_TEXT]) for label, _, text in words if label in LABELS]


def table(title: str, facts: Sequence[tuple[str, str]]) -> str:
    """Facts as HTML; text of any kind stays text."""
    row = '<tr><td style="color:#666;padding-right:1em;vertical-align:top">{}</td><td>{}</td></tr>'
    rows = "".join(row.format(html.escape(label), html.escape(text)) for label, text in facts)
    return f'<div style="padding:0 12px"><h4>{html.escape(title)}</h4><table>{rows}</table></div>'


def links(envs: Iterable[str]) -> str:
    """The runs of a server as links to their pages, as HTML."""
    found = sorted(env for env in envs if env != "main")
    items = "".join(
        f'<li><a href="/env/{quote(env)}" target="_top">{html.escape(env)}</a></li>' for env in found
    )
    listed = f'<ul style="padding-left:1.5em">{items}</ul>'
    return f'<div style="padding:0 12px"><h4>runs on this server</h4>{listed}</div>'
