"""Every exercise of the notebooks, in one place each: reference, seeded cases, and wrong answers to reject."""

from helpers.course.exercises.are import ARE_EXERCISES
from helpers.course.exercises.eagle import EAGLE_EXERCISES
from helpers.course.exercises.embedding import EMBEDDING_EXERCISES
from helpers.course.exercises.scale import SCALE_EXERCISES

EXERCISES = EMBEDDING_EXERCISES | EAGLE_EXERCISES | ARE_EXERCISES | SCALE_EXERCISES
