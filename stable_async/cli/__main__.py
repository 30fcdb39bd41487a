"""`python -m stable_async.cli`."""

from stable_async.cli import main

main()
