"""`stable-async completion`: completion of commands and options in a shell."""

from typing import Literal

from stable_async.cli.exit_status import OK
from stable_async.cli.options import reflowed

__all__ = ["completion"]


@reflowed
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the completion script of a shell.

    bash: stable-async completion bash > ~/.local/share/bash-completion/completions/stable-async

    zsh: stable-async completion zsh > ~/.zfunc/_stable-async (with ~/.zfunc in fpath)

    fish: stable-async completion fish > ~/.config/fish/completions/stable-async.fish

    Args:
        shell: The shell.
    """
    from stable_async.cli.app import make_app

    print(make_app().generate_completion(shell=shell))
    return OK
