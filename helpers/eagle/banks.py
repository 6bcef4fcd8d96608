"""The banks of editing instructions, written by hand: a hundred for movies and fifty for clothes.

Both have five categories, and half of each is filled in from a user's profile. Clothes have half as many: a garment's
description is shorter than a plot, so fewer changes to it make a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CATEGORIES = ("plot", "character", "style", "theme", "audience")


@dataclass(frozen=True)
class Action:
    """An editing instruction.

    A personalised template has slots: `{liked}` and `{liked2}` (genres the user likes, strongest first),
    `{disliked}` (a genre), `{theme}` and `{theme2}` (phrases such as `betrayal and revenge`).
    """

    template: str
    category: str
    personalised: bool


def bank_of(templates: Mapping[str, Sequence[str]], personalised: bool) -> tuple[Action, ...]:
    """The actions of some templates by category."""
    return tuple(Action(text, category, personalised) for category, texts in templates.items() for text in texts)


# --- movies ----------------------------------------------------------------------------------------------

# Genres have the names of MovieLens: the model copies them into the text's first line, which the encoder reads.
MOVIE_EDITS = {
    "plot": (
        "Add a murder that has to be solved and make it a Mystery.",
        "Make it a Crime story about a bank robbery that goes wrong.",
        "Start a War and send the main character to the front.",
        "Move the story to a space station and make it Sci-Fi.",
        "Make it a Western about settlers who fight over land.",
        "Send everyone on a long Adventure to find a lost treasure.",
        "Add a ticking bomb and turn it into an Action movie full of chases.",
        "Give it a happy ending with a wedding.",
        "End in tragedy: the main character loses everything.",
        "Let a trusted friend turn out to be the enemy.",
    ),
    "character": (
        "Make the main character a private detective and the genre Film-Noir.",
        "Make the main characters talking animals and the genre Animation.",
        "Make the main character a ten-year-old child with an imaginary friend.",
        "Turn the villain into a monster and make it Horror.",
        "Make the main character a young wizard and the genre Fantasy.",
        "Let two enemies fall in love and make it a Romance.",
        "Replace the main character with two clumsy friends who get everything wrong.",
        "Make the main character a soldier who comes home wounded.",
        "Make the main character a lonely widow with a secret.",
        "Make the main character a famous singer and the genre Musical.",
    ),
    "style": (
        "Tell it as a dark Film-Noir with rain, shadows and a doomed hero.",
        "Turn it into a Musical in which everyone sings and dances.",
        "Present it as a Documentary with interviews and real events.",
        "Make it a colourful Animation with toys that come to life.",
        "Tell it as a Horror story in an old house at night.",
        "Set it at a royal court three hundred years ago, with lavish costumes.",
        "Move it to a small snowbound village and make it quiet and sad.",
        "Set it in a huge city of the future, full of robots.",
        "Move it to Paris and make it a light, elegant Comedy.",
        "Tell it as an Action movie with car chases and explosions.",
    ),
    "theme": (
        "Make it a Drama about a family that learns to forgive.",
        "Make it about greed: money destroys every friendship.",
        "Ask whether machines can feel, and make it Sci-Fi.",
        "Show what War does to ordinary people.",
        "Make it a Romance about first love between two teenagers.",
        "Turn it into a Fantasy about the struggle between good and evil.",
        "Make it about racism and a trial that divides a town.",
        "Make it about old age, memory and saying goodbye.",
        "Turn it into a Comedy that mocks politicians and fame.",
        "Make it about faith, guilt and a priest in doubt.",
    ),
    "audience": (
        "Make it a gentle Children's movie without violence.",
        "Turn it into a silly Comedy for teenagers.",
        "Make it a tense Thriller for adults, with danger in every scene.",
        "Make it a sweeping Romance that makes people cry.",
        "Turn it into a serious Drama for film festivals.",
        "Make it a summer blockbuster: Action, Adventure and a race against time.",
        "Make it a violent, realistic Crime movie for adults only.",
        "Turn it into a nature Documentary for curious viewers.",
        "Make it a gory Horror movie for a midnight audience.",
        "Make it a Christmas Musical for the whole family.",
    ),
}

# A theme has up to six words, so a template with one has at most ten others, and one with two at most four. No
# article stands before a slot ("a Action movie"), and none of the sentences needs a singular or a plural in it.
_PERSONALISED_MOVIE_EDITS = {
    "plot": (
        "Change the genres to {liked} and {liked2}, and change the plot to match.",
        "Add {liked} to the genres, and a scene that belongs there.",
        "Rewrite the plot as a story about {theme}.",
        "Replace all {disliked} scenes with {liked} scenes.",
        "Remove {disliked} from the genres and from the plot.",
        "Keep the plot, but make its only genre {liked2}.",
        "End the story with a surprising {liked2} scene.",
        "Add a second story about {theme2}.",
        "Add {liked} to the genres and end with {theme}.",
        "Move from {theme} to {theme2}.",
    ),
    "character": (
        "Turn the main character into the hero of a classic {liked} movie.",
        "Add a new character who is caught up in {theme}.",
        "Give the main character a past marked by {theme2}.",
        "Bring in the villain of a classic {liked2} movie.",
        "Let two old friends fall out over {theme}.",
        "Let the main character face {theme} alone.",
        "Replace the main character with somebody from a typical {liked2} movie.",
        "Replace typical {disliked} characters with typical {liked} characters.",
        "Let {theme2} bring two strangers together until they fall in love.",
        "Make the main character a child who learns about {theme}.",
    ),
    "style": (
        "Tell it in the style of a classic {liked} movie.",
        "Mix the styles of {liked} and {liked2} movies.",
        "Give it the setting and mood of a typical {liked2} movie.",
        "Open with a striking image of {theme}.",
        "Move the story to a place that suits {theme}.",
        "Change the genre from {disliked} to {liked}, and the setting too.",
        "Give it the music and the colours of classic {liked} movies.",
        "Tell it in flashbacks that reveal {theme2}.",
        "Change the mood from {disliked} to {liked2}.",
        "Show {theme} in one long, unforgettable scene.",
    ),
    "theme": (
        "Make {theme} the main theme.",
        "Combine {theme} with {theme2}.",
        "Contrast {theme} with {theme2}.",
        "Explore {theme2} the way good {liked} movies do.",
        "Turn the story into a lesson about {theme}.",
        "Show the dark side of {theme}.",
        "Show the funny side of {theme2}.",
        "Replace the {disliked} part of the story with {theme}.",
        "Mix a story about {theme} with {liked2} scenes.",
        "Let the main character see {theme2} with new eyes.",
    ),
    "audience": (
        "Make it appeal to fans of {liked} and {liked2} movies.",
        "Use fewer {disliked} scenes and more {liked} scenes.",
        "Aim it at viewers who love stories about {theme}.",
        "Rewrite it for viewers who love {liked2} movies and avoid {disliked} movies.",
        "Make it the {liked} movie that everybody will talk about.",
        "Please fans of {liked2} movies with an exciting scene about {theme}.",
        "Make it a big, cheerful {liked} movie for the whole family.",
        "Make it a small, honest {liked2} movie about {theme}.",
        "Make fans of {liked} movies cry over {theme2}.",
        "Surprise fans of {liked} movies with unexpected {liked2} scenes.",
    ),
}

BANK: tuple[Action, ...] = bank_of(MOVIE_EDITS, False) + bank_of(_PERSONALISED_MOVIE_EDITS, True)


# --- clothes ---------------------------------------------------------------------------------------------

_CLOTHING_EDITS = {
    "cut": (
        "Make it a long, flowing dress.",
        "Make it a fitted jacket with a narrow waist.",
        "Make it a pair of wide pants with a high waist.",
        "Turn it into a short skirt with pleats.",
        "Turn it into an oversized sweater.",
    ),
    "fabric": (
        "Make it of soft, stretchy cotton.",
        "Make it of warm, heavy wool.",
        "Make it of thin silk that shines.",
        "Make it of sturdy blue denim and change the kind to Jeans.",
        "Make it of sheer lace over a lining.",
    ),
    "look": (
        "Give it a bold print of large flowers.",
        "Make it plain black and elegant.",
        "Give it bright red and yellow colours.",
        "Give it navy and white stripes.",
        "Give it soft, pale colours and a faded look.",
    ),
    "detail": (
        "Add deep pockets and a zip.",
        "Add ruffles and a bow at the neck.",
        "Add embroidery on the sleeves.",
        "Give it buttons and a collar, like a classic blouse.",
        "Say that it runs true to size and is comfortable to wear.",
    ),
    "occasion": (
        "Make it something for lazy days at home.",
        "Make it right for the office.",
        "Make it right for a summer wedding.",
        "Make it right for the beach and change the kind to Swim.",
        "Make it right for long walks on cold days.",
    ),
}

_PERSONALISED_CLOTHING_EDITS = {
    "cut": (
        "Change the kind to {liked}, and the cut to match.",
        "Change the kind to {liked2}, and the cut to match.",
        "Give it {theme}.",
        "Mix the cuts of {liked} and {liked2}.",
        "Take away what reminds one of {disliked}.",
    ),
    "fabric": (
        "Make it of the fabric that good {liked} are made of.",
        "Make it of the fabric that good {liked2} are made of.",
        "Choose a fabric that goes with {theme}.",
        "Choose a fabric that goes with {theme2}.",
        "Choose a fabric that nobody would use for {disliked}.",
    ),
    "look": (
        "Give it the colours of classic {liked}.",
        "Give it the colours of classic {liked2}.",
        "Let it look striking, with {theme2}.",
        "Let people see {theme} at first sight.",
        "Change the look from {disliked} to {liked}.",
    ),
    "detail": (
        "Add {theme2}.",
        "Add a detail that is usual for {liked}.",
        "Combine {theme} with {theme2}.",
        "Borrow a detail from {liked2}.",
        "Leave out every detail that is typical of {disliked}.",
    ),
    "occasion": (
        "Make it right for women who wear {liked} every day.",
        "Make it go well with {liked2}.",
        "Make it right for women who want {theme}.",
        "Make it right for women who never wear {disliked}.",
        "Make it a present for somebody who loves {theme2}.",
    ),
}

CLOTHING_BANK: tuple[Action, ...] = bank_of(_CLOTHING_EDITS, False) + bank_of(_PERSONALISED_CLOTHING_EDITS, True)
