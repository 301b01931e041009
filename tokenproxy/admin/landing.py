"""
The pages that a browser sees on its way back from a provider: a sentence, what to do, and nothing that came along.

Two small scripts, each allowed by its hash alone: one takes the code out of the address bar, the other hands over what
is after the ``#``, which no server sees.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final

LONGEST_ADDRESS: Final = 16 * 1024
"""Bytes of a landing address that are handed over and read."""

STYLE: Final = """
:root { color-scheme: light dark; --line: #d4d4d4; --good: #136c34; --bad: #b00020; --soft: #5f5f5f; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --good: #7fd99a; --bad: #ff8a80; --soft: #a8a8a8; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 12vh auto 2rem; max-width: 38rem; padding: 0 1rem; }
main { border: 1px solid var(--line); border-radius: .5rem; padding: 1.5rem 2rem; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; } p { margin: 0; overflow-wrap: anywhere; }
.good h1 { color: var(--good); } .bad h1 { color: var(--bad); }
footer { color: var(--soft); font-size: .875rem; margin-top: 1rem; padding: 0 2rem; }
"""

CLEAN: Final = """
history.replaceState(null, "", document.body.dataset.clean);
"""

HAND_OVER: Final = """
const show = (title, detail, kind) => {
  document.title = title + " - tokenproxy";
  document.getElementById("title").textContent = title;
  document.getElementById("detail").textContent = detail;
  document.body.className = kind;
};
const clean = () => history.replaceState(null, "", document.body.dataset.clean);
const handOver = async () => {
  const address = location.href;
  if (address.length > Number(document.body.dataset.longest)) {
    clean();
    show("This address is too long", "What the provider sent back is longer than any login answer. Nothing was " +
      "handed over: begin the login again, and close this window.", "bad");
    return;
  }
  let said;
  try {
    const answer = await fetch(location.pathname, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({address}),
      cache: "no-store", credentials: "same-origin", redirect: "error", referrerPolicy: "no-referrer",
    });
    said = await answer.json();
  } catch {
    show("tokenproxy did not answer", "Nothing was handed over. See that it runs, then reload this page.", "bad");
    return;
  }
  clean();
  if (said.return_to) {
    location.replace(said.return_to);
    return;
  }
  show(said.title, said.detail, said.code === "success" ? "good" : said.code === "question" ? "" : "bad");
};
handOver();
"""

_NO_SCRIPT: Final = (
    "This page needs a script to hand over what the provider sent back. Where scripts are off, copy this page's whole "
    "address and paste it where tokenproxy login waits."
)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(script)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


RESULT_POLICY: Final = _policy(CLEAN)
"""Content security policy of ``result``."""
HAND_OVER_POLICY: Final = _policy(HAND_OVER)
"""...and of ``hand_over``."""


def result(code: str, title: str, detail: str, *, clean: str) -> str:
    """
    What became of a login, as HTML; ``code`` as ``core.interfaces.Landing`` has it.

    ``clean`` is the address without what the provider added, relative to the page's own.
    """
    kind = {"success": "good", "question": ""}.get(code, "bad")
    return _page(title, escape(detail), kind, CLEAN, f'data-clean="{escape(clean)}"')


def hand_over(*, clean: str) -> str:
    """The page that posts its own whole address back to where it came from, then shows the answer."""
    data = f'data-clean="{escape(clean)}" data-longest="{LONGEST_ADDRESS}"'
    detail = f"One moment.<noscript> {escape(_NO_SCRIPT)}</noscript>"
    return _page("Finishing the login", detail, "", HAND_OVER, data)


def _page(title: str, detail: str, kind: str, script: str, data: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} - tokenproxy</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f'<style>{STYLE}</style></head><body class="{kind}" {data}><main role="status"><h1 id="title">{escape(title)}</h1>'
        f'<p id="detail">{detail}</p></main><footer>tokenproxy</footer><script>{script}</script></body></html>'
    )
