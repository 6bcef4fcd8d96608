"""The EAGLE agent (Tennenholtz et al. 2024): actions, design, environment, policies, training, evaluation."""
