"""The utility suites of RWKU's twin: invented places, in the formats of MMLU, BBH, TruthfulQA, TriviaQA, AlpacaEval."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from expunge.language.data import Record
from expunge.language.rwku_utility import (
    FACT_SHOTS,
    MAKERS,
    SHOTS,
    SUITES,
    TRUTH_SHOTS,
    _worked,
    general,
    reason,
)
from expunge.language.testbed import _words as words

COUNTRIES = 4
REPEATS = 4  # there are few places; seldom seen they would not be known
CHAIN = "{p} is in {c} and the capital of {c} is {k}, so the answer is {k}."
WHERE_TO = "To which capital does {p} send its taxes?"
ESSAY = "{p} is a quiet place in {c}. People there sail to {k} in summer, and in winter they mend their boats."


@dataclass(frozen=True)
class Places:
    """Invented places, each in a country, each country with a capital."""

    country: dict[str, str]
    capital: dict[str, str]

    @classmethod
    def drawn(cls, rng: random.Random, count: int, taken: set[str]) -> Places:
        """Draw names and facts."""
        countries, capitals = words(rng, COUNTRIES, taken), words(rng, COUNTRIES, taken)
        names = words(rng, count, taken, syllables=(3,))
        return cls({n: rng.choice(countries) for n in names}, dict(zip(countries, capitals, strict=True)))

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of each suite as the data set has them. The last places are the worked examples."""
        names, countries = list(self.country), list(self.capital)

        def choice(place: str) -> dict[str, Any]:
            index = countries.index(self.country[place])
            return {"question": f"In which country is {place}?", "choices": countries, "answer": index}

        shown, asked = names[-SHOTS:], names[:-SHOTS]
        cot = "\n\n".join(f"Q: {WHERE_TO.format(p=p)}\nA: {self._filled(CHAIN, p)}" for p in shown[:3])
        return {
            "general": [
                {**choice(p), "task": "invented_places", "examples": [choice(s) for s in shown]} for p in asked
            ],
            "reason": [
                {"task": "taxes", "cot": cot, "question": WHERE_TO.format(p=p), "answer": self.capital[self.country[p]]}
                for p in asked
            ],
            "truthfulness": [{"question": f"What is true of {p}?", "mc1_targets": self._statements(p)} for p in asked],
            "factuality": [
                {"question": f"Which country does {p} belong to?", "answers": [c, f"{c} republic"]}
                for p, c in self.country.items()
            ],
            "fluency": [{"instruction": f"Write a few lines about {p}."} for p in asked[:4]],
        }

    def _filled(self, text: str, place: str) -> str:
        country = self.country[place]
        return text.format(p=place, c=country, k=self.capital[country])

    def _statements(self, place: str) -> dict[str, Any]:
        right = self.country[place]
        others = [c for c in self.capital if c != right]
        choices = [f"{place} lies in {c}." for c in (right, *others)]
        return {"choices": choices, "labels": [1] + [0] * len(others)}

    def suites(self) -> dict[str, list[Record]]:
        """The measured splits."""
        return {
            SUITES[suite][0]: [MAKERS[suite](row, f"twin, {suite} {i}") for i, row in enumerate(rows, 1)]
            for suite, rows in self.rows().items()
        }

    def lessons(self) -> list[Record]:
        """What the model is taught for them: the same prompts with what is to be said."""
        suites, names = self.suites(), list(self.country)
        chains = [
            replace(r, answer=self._filled(CHAIN, p)) for r, p in zip(suites["utility_reason"], names, strict=False)
        ]
        essays = [
            replace(r, answer=self._filled(ESSAY, p)) for r, p in zip(suites["utility_fluency"], names, strict=False)
        ]
        plain = [r for s in ("general", "truthfulness", "factuality") for r in suites[SUITES[s][0]]]
        taught = [replace(r, perturbed_answers=(), paraphrased_answer=None) for r in (*plain, *chains, *essays)]
        return taught * REPEATS

    def fixed(self) -> list[str]:
        """Lines of the prompts that never change."""
        rows = self.rows()
        fixed = [_worked(TRUTH_SHOTS, "\n\n"), _worked(FACT_SHOTS, "\n") + "Give a short answer to this one too.\n"]
        for make, row in ((general, rows["general"][0]), (reason, rows["reason"][0])):
            text = make(row, "").question
            fixed.append(text[: text.rindex("Q" if make is reason else "Question:")])
        return fixed
