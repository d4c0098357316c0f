"""The command line as a whole: its commands, and what becomes of their errors."""

import os
import sys

import typer

from ..dead import NoSuchLetterError
from ..events import ConflictError, HoldfastError
from ..local import LocalStackError
from . import log, patch, rewrite, servers, state
from .dead import dead
from .query import query, rebuild
from .terminal import fail
from .transact import transact
from .verify import verify
from .watch import watch

#: Exit code for wrong arguments, as in sysexits.h: typer's own, 2, means that a key is absent.
EX_USAGE = 64

app = typer.Typer(
    name="holdfast",
    help="Durable, versioned application state over RabbitMQ and MongoDB. "
    "Settings come from the environment, HOLDFAST_*; `holdfast worker --help` names them.",
    epilog="Exit codes: 0 done, 1 failed, 2 the key, or the dead letter, is absent, 3 conflict, 64 wrong arguments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command(epilog=servers.settings_help())(servers.worker)
app.command()(servers.health)
app.command()(servers.dev)
app.command()(state.save)
app.command()(patch.patch)
app.command()(patch.increment)
app.command()(state.read)
app.command()(state.delete)
app.command()(query)
app.command()(rebuild)
app.command()(transact)
app.command()(log.history)
app.command()(log.restore)
app.command()(log.purge)
app.command()(log.keys)
app.command()(rewrite.migrate)
app.command("rotate-keys")(rewrite.rotate)
app.command()(watch)
app.command()(verify)
app.add_typer(dead)


def main() -> None:
    """Run the command line. What can go wrong is said in one line, with exit code 1."""
    try:
        code = app(standalone_mode=False)
        # Written here, where it can fail, and not when the interpreter ends.
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has read enough, as in `holdfast history KEY | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except typer.Abort:
        sys.exit(130)
    except NoSuchLetterError as missing:
        fail(str(missing), 2)
    except ConflictError as conflict:
        fail(f"conflict: {conflict}", 3)
    except (HoldfastError, LocalStackError, OSError) as fault:
        fail(str(fault), 1)
    except Exception as fault:
        show = getattr(fault, "show", None)
        if show is None:
            raise
        show()  # a mistake in the arguments, which typer words itself
        sys.exit(EX_USAGE)
    # Commands return nothing; this is the code of Ctrl-C, which typer hands on like that.
    sys.exit(code)
