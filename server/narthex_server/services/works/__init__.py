"""The kinds of work that the lot takes: a module for each, behind one Protocol."""
