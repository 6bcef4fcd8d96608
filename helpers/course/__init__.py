"""Running notebooks, results, exercises, the student edition, slides and the book."""
