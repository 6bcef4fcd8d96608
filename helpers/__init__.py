"""Helpers of the course: the tested code behind the notebooks. Nothing runs or downloads at import."""
