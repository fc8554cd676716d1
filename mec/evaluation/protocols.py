"""The table of protocols, by the word of `mec evaluate`: each room's own rows, in the order in which help lists them.

A new protocol is a dataclass and a row in its room's `protocols.py`; see `mec.evaluation.protocol`. No torch here.
"""

import textwrap

from mec.evaluation.detection import protocols as detection
from mec.evaluation.finetuning import protocols as finetuning
from mec.evaluation.probing import protocols as probing
from mec.evaluation.protocol import Protocol
from mec.evaluation.tracking import protocols as tracking
from mec.evaluation.transfer import protocols as transfer

GROUPS: dict[str, dict[str, type[Protocol]]] = {
    str(room.__doc__): room.PROTOCOLS for room in (probing, finetuning, transfer, detection, tracking)
}
PROTOCOLS: dict[str, type[Protocol]] = {word: kind for rows in GROUPS.values() for word, kind in rows.items()}


def protocol_list(width: int = 116) -> str:
    """The protocols in their groups, a word and its first sentence in at most `width` columns a line."""
    lines = []
    for title, rows in GROUPS.items():
        lines.append(f"{title}:")
        for word, kind in rows.items():
            sentence = " ".join(str(kind.__doc__).split("\n\n")[0].split())
            lines.append(textwrap.fill(sentence, width, initial_indent=f"  {word:<11}", subsequent_indent=" " * 13))
    return "\n".join(lines)
