"""Adversarial representation engineering (Zhang et al. 2024): concepts, discriminator, editing."""
