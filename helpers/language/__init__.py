"""Language models: loading, prompts, decoding, likelihood, hidden states, adapters."""
