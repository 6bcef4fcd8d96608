"""The tested package behind the notebooks. Its rooms, from the ground up; each imports only from those above it here.

| room | what is inside |
|---|---|
| `base` | settings, files that are whole or absent, sources and their checksums, intervals, the device |
| `language` | language models: loading, prompts, decoding, likelihood, hidden states, adapters |
| `domains` | items with text, users and ratings: movies, clothes, Amazon files, drawings |
| `embedding` | behavioural embeddings from ratings, and encoders that map text into them |
| `eagle` | the EAGLE agent: actions, design, environment, policies, training, evaluation |
| `are` | adversarial representation engineering: concepts, discriminator, editing, evaluation |
| `larger_machines` | servers, a cluster, several processes, ratings by the million, sizing |
| `course` | running notebooks, results, exercises, student edition, slides, book |
| `pages` | figures, widgets and the two explorers |
"""

ROOMS = ("base", "language", "domains", "embedding", "eagle", "are", "larger_machines", "course", "pages")
