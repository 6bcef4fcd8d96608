"""The engine: decodes many prompts at once, and computes what they have in common only once.

`decoding` is its entry point, `plain` does the same in twenty lines of transformers, a few times slower. A model is
decoded by the engine only after `fitting` has found the engine's logits equal to the model's own.
"""
