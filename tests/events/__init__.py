"""Tests of events and identifiers."""
