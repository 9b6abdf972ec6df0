"""Kinds of tasks: how data are read for each, and how it is scored."""
