"""Stores of responses and their steps."""
