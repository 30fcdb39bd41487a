"""Programs of users, checked by type checkers and never run: see `make types`."""
