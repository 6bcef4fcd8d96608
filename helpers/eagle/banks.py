"""Actions for clothes: fifty editing instructions in five categories, half of them filled from a user's profile.

Half as many as for movies (`actions.BANK`): a garment's description is shorter than a plot, and fewer changes of it
make a difference.
"""

from __future__ import annotations

from helpers.eagle.actions import Action, bank_of

_GENERIC = {
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

_PERSONALISED = {
    "cut": (
        "Change the kind to {liked}, and the cut to match.",
        "Change the kind to {liked2}, and the cut to match.",
        "Give it {theme}.",
        "Mix the cuts of {liked} and {liked2}.",
        "Take away what reminds of {disliked}.",
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

CLOTHING_BANK: tuple[Action, ...] = bank_of(_GENERIC, False) + bank_of(_PERSONALISED, True)
