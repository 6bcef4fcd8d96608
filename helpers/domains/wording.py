"""The words of a domain: how its texts are laid out, and what its items and the people who like them are called.

Everything that reads or writes a text looks here, so that the same code edits movies and garments.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Wording:
    """The words of one domain.

    Attributes:
        field: what opens the first line of a text, as in `Genres: Drama.`
        names: the labels that may stand in that line; `other_names` is what language models write for them, in small
            letters.
        system, examples: how the language model is asked for a rewrite: (text, instruction, new text) each.
        themes: what an item can be about; `theme` is a sentence that says so of an item.
        drawn_to: the words before a user's themes.
        likes, dislikes, fallback_themes: what an instruction names when a user's profile is silent.
    """

    field: str
    names: tuple[str, ...]
    system: str
    examples: tuple[tuple[str, str, str], ...]
    themes: tuple[str, ...]
    theme: str
    drawn_to: str
    likes: tuple[str, ...]
    dislikes: tuple[str, ...]
    fallback_themes: tuple[str, ...]
    other_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @cached_property
    def catalogue(self) -> dict[str, str]:
        """Label by its letters alone, in small letters, under all the names it has."""
        names = {letters(name): name for name in self.names}
        return names | {letters(name): label for name, label in self.other_names.items()}

    def line(self, labels: list[str] | tuple[str, ...]) -> str:
        """The first line of a text with these labels."""
        return f"{self.field}: {', '.join(labels) or 'unknown'}."


def letters(text: str) -> str:
    """The letters of a text, in small letters."""
    return re.sub(r"[^a-z]", "", text.lower())


def _listed(text: str) -> tuple[str, ...]:
    """The parts of a text between semicolons."""
    return tuple(part.strip() for part in text.split(";"))


def _named(text: str) -> dict[str, str]:
    """Label by its other name, from parts `other name: label`."""
    return {name: label for name, label in (part.split(": ") for part in _listed(text))}


MOVIES = Wording(
    field="Genres",
    names=_listed("""
        Action; Adventure; Animation; Children's; Comedy; Crime; Documentary; Drama; Fantasy; Film-Noir; Horror;
        Musical; Mystery; Romance; Sci-Fi; Thriller; War; Western
    """),
    other_names=_named("""
        animated: Animation; children: Children's; detective: Mystery; family: Children's; kids: Children's;
        music: Musical; noir: Film-Noir; science fiction: Sci-Fi; scifi: Sci-Fi
    """),
    system="You edit movie ideas. Follow the instruction, keep the form, and answer with the new movie only.",
    examples=(
        (
            "Genres: Drama.\nA retired teacher returns to her village and finds that her old school is about to close.",
            "Set it in space and make it science fiction.",
            "Genres: Sci-Fi, Drama.\nA retired navigator returns to her home station and finds that its last academy "
            "is about to lose its air.",
        ),
        (
            "Genres: Action, Thriller.\nA bomb squad officer has one night to find a device in a crowded stadium.",
            "Make it funny and warm, for families.",
            "Genres: Comedy, Children's.\nA clumsy stadium guard and his daughter have one night to find a runaway "
            "mascot.",
        ),
        (
            "Genres: Comedy, Romance.\nTwo rival bakers fall in love while they compete for the same wedding.",
            "Add a murder that has to be solved.",
            "Genres: Crime, Mystery, Romance.\nTwo rival bakers fall in love while they search for the guest who "
            "poisoned the wedding cake.",
        ),
    ),
    themes=_listed("""
        a dangerous criminal and the police; a family under strain; a journey far from home; a love that should not be;
        a murder and its detective; a stranger in a small town; aliens and space travel;
        ambition and the price of success; an artist or musician; an outsider who finds friends; animals and children;
        betrayal and revenge; corruption and politics; courtrooms and justice; faith and doubt;
        first love and growing up; gangsters and organised crime; ghosts and the supernatural;
        growing old and looking back; historical courts and kings; hostages and rescue; madness and obsession;
        magic and fairy tales; marriage and infidelity; mistaken identity and farce; monsters and survival;
        natural disasters; office life and money; poverty and hope; prison and escape; school and teachers;
        soldiers and war; spies and conspiracies; sports and competition; technology out of control; the wild west
    """),
    theme="A story about {}.",
    drawn_to="stories about",
    # Long enough that some are left beside the user's own genres.
    likes=("Drama", "Comedy", "Adventure", "Romance", "Action"),
    dislikes=("Horror", "War", "Western", "Musical"),
    fallback_themes=("a family under strain", "a journey far from home", "first love and growing up"),
)

CLOTHES = Wording(
    field="Kind",
    names=_listed("""
        Tops; Bottoms; Dresses; Knits; Blouses; Intimate; Sweaters; Jackets; Pants; Fine gauge; Skirts; Lounge; Jeans;
        Outerwear; Shorts; Legwear; Trend; Swim; Layering
    """),
    other_names=_named("""
        blouse: Blouses; cardigan: Sweaters; cardigans: Sweaters; coat: Outerwear; coats: Outerwear; dress: Dresses;
        jacket: Jackets; knitwear: Knits; leggings: Legwear; loungewear: Lounge; outwear: Outerwear; shirt: Tops;
        shirts: Tops; skirt: Skirts; sweater: Sweaters; swimwear: Swim; top: Tops; trousers: Pants
    """),
    system="You edit descriptions of clothes. Follow the instruction, keep the form, and answer with the new garment "
    "only.",
    examples=(
        (
            "Kind: Bottoms, Jeans.\nThese are dark blue jeans with a high waist and narrow legs.",
            "Make it a light piece for hot days.",
            "Kind: Bottoms, Shorts.\nThese are white linen shorts with a loose leg and a high waist.",
        ),
        (
            "Kind: Tops, Knits.\nThe grey fabric is thin and soft, and the sleeves are rather long.",
            "Turn it into something elegant for the evening.",
            "Kind: Dresses.\nThe black silk is thin and soft, and the long dress has narrow sleeves and an open back.",
        ),
        (
            "Kind: Dresses.\nThis dress has a bright floral print and falls straight to the knee.",
            "Give it a warm fabric and pockets.",
            "Kind: Dresses.\nThis wool dress has a small floral print, two deep pockets and falls to the knee.",
        ),
    ),
    themes=_listed("""
        a fitted, tailored cut; a loose, flowing cut; a high waist; a low neckline or bare shoulders; long sleeves;
        a short hem; a long, sweeping hem; an unusual or asymmetric cut; soft, stretchy fabric; crisp cotton or linen;
        warm wool; sheer, delicate fabric; silk and satin; leather and suede; sturdy denim; lace and embroidery;
        bold prints and flowers; stripes and checks; bright, happy colours; black, grey and navy; pockets and zips;
        ruffles, bows and pleats; buttons and a collar; layers that go over everything; comfort at home;
        a look for the office; a look for evenings and weddings; a look for the beach and holidays;
        an old-fashioned charm; room for curves; small sizes for petite women
    """),
    theme="A garment with {}.",
    drawn_to="clothes with",
    likes=("Dresses", "Tops", "Sweaters", "Pants", "Jackets"),
    dislikes=("Lounge", "Shorts", "Legwear", "Swim"),
    fallback_themes=("soft, stretchy fabric", "a loose, flowing cut", "bright, happy colours"),
)

# For files of any category: `names` are filled in from the file.
PRODUCTS = Wording(
    field="Kind",
    names=(),
    system="You edit product descriptions. Follow the instruction, keep the form, and answer with the new product "
    "only.",
    examples=(
        (
            "Kind: Kitchen.\nA steel kettle with a wooden handle that holds two litres.",
            "Make it smaller and easier to carry.",
            "Kind: Kitchen, Travel.\nA light steel kettle for one cup, with a handle that folds away.",
        ),
        (
            "Kind: Office.\nA plain paper notebook with a hard cover.",
            "Turn it into a present for a child.",
            "Kind: Toys.\nA paper notebook with animals on its cover and six coloured pencils.",
        ),
    ),
    themes=_listed("""
        a low price; fine materials; small size and low weight; long life and sturdiness; easy use; a playful look;
        a plain, elegant look; bright colours; a pretty box to give away; something for children;
        something for sports and travel; something for the kitchen and the table; something for the office;
        something for a birthday or a holiday
    """),
    theme="A product with {}.",
    drawn_to="products with",
    likes=("Home", "Office", "Toys"),
    dislikes=("Tools", "Electronics", "Garden"),
    fallback_themes=("easy use", "fine materials", "a low price"),
)
