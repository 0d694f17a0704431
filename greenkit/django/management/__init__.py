"""Holds the commands Django finds by path."""
