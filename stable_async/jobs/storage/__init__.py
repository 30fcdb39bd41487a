"""Where images are stored: a folder or a bucket."""
