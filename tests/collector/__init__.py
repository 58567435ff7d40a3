"""Tests of the local collector: what it keeps, what it says, and what it withstands."""
