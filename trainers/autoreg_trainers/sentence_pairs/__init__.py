"""Pairs of near-alike sentences, made from plain passages."""
