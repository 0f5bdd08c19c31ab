"""The index: a corpus goes in chunk by chunk, and questions find the chunks again."""
