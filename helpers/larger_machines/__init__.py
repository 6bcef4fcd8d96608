"""Servers, a cluster, several processes, ratings by the million, sizing."""
