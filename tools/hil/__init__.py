"""The HIL bench: record traffic, replay it, break the chain on purpose, judge what came out."""
