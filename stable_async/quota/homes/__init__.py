"""Where a quota is kept: in a process, in a file of one machine, on a server for many."""
