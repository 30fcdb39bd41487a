"""Readers of the formats that prompt files come in. `prompt_file` chooses among them."""
