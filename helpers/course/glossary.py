"""The terms of GLOSSARY.md: a page of the book with an anchor for each, and links at first use.

A link is a sphinx role, "{term}`leverages <Leverage>`", so that sphinx itself reports a missing term.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Text that gets no links: code, headings, equations, links, tags, and what is folded in one block of HTML.
UNLINKED = r"```.*?```|^#{1,6} [^\n]*|\$\$.*?\$\$|\$[^$]+\$|`[^`]*`|!?\[[^\]]*\]\([^)]*\)|<details.*?</details>|<[^>]+>|https?://\S+"
ENTRY = re.compile(r"^- \*\*(?P<name>.+?)\*\*: (?P<meaning>.+?) \[(?P<number>\w\w)\]\([^)]*\)$", re.MULTILINE)
# Words of everyday English: linked only on the page that defines them.
EVERYDAY = re.findall(
    r"\w+",
    """
agent aim alike anchor benign bias budget call card concept copy damage design dominated edgy edit exchange factors
fold frozen gain generic head hook horizon idea instruction interaction judge leak level memo members merge noise
observation patching pool profile promise rank reach repetition round rounding sensitivity sideways signal slot
start state steering strength support surprise sweep target template transfer unearned verdict walk worker wrapper
""",
)


@dataclass(frozen=True)
class Term:
    """An entry of the glossary: `name` as listed, its `meaning` in Markdown, the `number` that introduces it."""

    name: str
    meaning: str
    number: str

    @property
    def sense(self) -> str:
        """What distinguishes an entry from another with the same word, such as "of a design"; empty for most."""
        found = re.search(r"\(([a-z].*)\)$", self.name)
        return found[1] if found else ""

    @property
    def forms(self) -> list[str]:
        """The forms that a text may use: the name, its abbreviation, or each of the names that share an entry."""
        bare = re.sub(r"\s*\(.*\)$", "", self.name)
        short = re.search(r"\(([A-Z]{2,})\)$", self.name)
        return [*re.split(r", | and ", bare), *([short[1]] if short else [])]


def terms_of(glossary: str) -> list[Term]:
    """The entries of GLOSSARY.md, in their order."""
    return [Term(**found.groupdict()) for found in ENTRY.finditer(glossary)]


def glossary_page(glossary: str) -> str:
    """GLOSSARY.md with its list of terms as a sphinx glossary, to which links can point."""
    return re.sub(r"(?:^- \*\*.*\n?)+", _directive, glossary, flags=re.MULTILINE)


def _directive(found: re.Match) -> str:
    entries = re.sub(r"^- \*\*(.+?)\*\*: (.+)$", r"\1\n  \2\n", found[0].rstrip("\n"), flags=re.MULTILINE)
    return f"````{{glossary}}\n{entries}````\n"


def linked(texts: Sequence[str], terms: Iterable[Term], number: str) -> list[str]:
    """The Markdown `texts` of page `number`, with each term linked where the page first uses it.

    A term is linked from the notebook that introduces it onwards: before, the word has its everyday meaning. A term of
    several words (`Gap map`), or with special characters (`G-optimal`), is linked anywhere.
    """
    forms = {form: term for term in terms if _belongs(term, number) for form in term.forms}
    seen: set[str] = set()

    def link(found: re.Match) -> str:
        if found["form"] is None:
            return found[0]
        words = " ".join(found[0].split())
        term = known[_key(found["form"])]
        if term.name in seen:
            return found[0]
        seen.add(term.name)
        return f"{{term}}`{words} <{term.name}>`"

    known = {_key(form): term for form, term in forms.items()}
    if not forms:
        return list(texts)
    longest_first = "|".join(_pattern(form) for form in sorted(forms, key=lambda form: (-len(form), form)))
    pattern = re.compile(
        rf"{UNLINKED}|(?<![\w$-])(?P<form>{longest_first})(?:s|es)?(?![\w$-])", re.DOTALL | re.MULTILINE
    )
    return [pattern.sub(link, text) for text in texts]


def _belongs(term: Term, number: str) -> bool:
    everyday = term.sense or term.name.casefold() in EVERYDAY
    plain = re.fullmatch(r"[A-Z]?[a-z]+", term.name)
    return term.number == number or (not everyday and (not plain or term.number < number))


def _pattern(form: str) -> str:
    """A form as it may occur in a text: its first letter in either case, unless the form is in capitals."""
    words = re.escape(form).replace("\\ ", r"\s+")
    return f"[{form[0].lower()}{form[0].upper()}]{words[1:]}" if form[1:2].islower() else words


def _key(form: str) -> str:
    return " ".join(form.split())[:1].lower() + " ".join(form.split())[1:]
