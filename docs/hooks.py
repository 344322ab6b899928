"""What the site's generator cannot do by itself with docstrings.

Names such as ``:class:`PromptBank` `` become plain code, and attributes that are explained together, ``mean, std: per channel``, are
shown together instead of as ``mean`` of a type ``std``.
"""

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(?:promptvit\.|~(?:\w+\.)*)?([\w.]+)</code>")
TOGETHER = re.compile(r"<b><code><span[^>]*>(\w+),</span></code></b>\s*\(<code>(.*?)</code>\)", re.DOTALL)
MARKUP = re.compile(r"<[^>]+>|[()]")


def on_post_page(output: str, **_: Any) -> str:
    """The page as it should be read; of a name with ``~`` in front only the last part stays."""
    output = ROLE.sub(r"<code>\1</code>", output)
    return TOGETHER.sub(lambda found: f"<b><code>{found[1]}, {MARKUP.sub('', found[2])}</code></b>", output)
