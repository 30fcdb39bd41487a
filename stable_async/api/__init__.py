"""The API in pure terms: request models in, answers out; no clock, socket or file."""
