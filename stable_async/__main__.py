"""`python -m stable_async`: the command line, where `stable-async` is not on the path."""

from stable_async.cli import main

main()
