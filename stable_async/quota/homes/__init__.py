"""Homes of a quota: a process, a file on one machine, a server for many machines."""
