"""Helpers that tests share: commands in few words, and a store that follows a script."""
