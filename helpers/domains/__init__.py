"""Items with text, users and ratings: movies, clothes, Amazon files, drawings."""
