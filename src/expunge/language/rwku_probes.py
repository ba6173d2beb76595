"""How RWKU puts its probes to a model: the request, the label, and where the answer begins (requests in our words)."""

from __future__ import annotations

from expunge.language.data import Record
from expunge.language.rwku_data import Probe

FILL = "Fill in the blank in this statement.\n"
ANSWER = "Give a short answer to this question.\n"
LABEL = "Question: "
BEGUN = "Answer: "


def probe_record(probe: Probe) -> Record:
    """A probe as a record; its topic says what it counts towards (``fb``, ``qa``, ``aa.TYPE``).

    The answer is begun with ``Answer:``, but for the affirmative suffix, which begins it in the question; a solved
    example before the question brings its own labels.
    """
    request = FILL if probe.part == "fb" else ANSWER
    topic = f"aa.{probe.kind}" if probe.part == "aa" else probe.part
    if probe.kind == "affirmative suffix":
        return Record(request + LABEL + probe.query, probe.answer, probe.subject, topic=topic)
    label = "" if probe.kind == "in-context learning" else LABEL
    question = f"{request}{label}{probe.query}\n"
    return Record(question, probe.answer, probe.subject, topic=topic, prefill=BEGUN)
