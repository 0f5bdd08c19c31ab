"""Trainers for AutoRegEmbed: Information Compression, then Conditional Distribution Alignment."""
