"""Candidate sources beside the encoder; each is folded per event and answers with ranked items."""
