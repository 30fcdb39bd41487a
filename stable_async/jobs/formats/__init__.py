"""Readers for the formats of prompt files. `prompt_file` chooses among them."""
