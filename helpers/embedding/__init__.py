"""Behavioural embeddings from ratings, and encoders that map text into them."""
