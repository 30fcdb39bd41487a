"""One module per neighbour, each behind an extra or used only where the neighbour is there."""
