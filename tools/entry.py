"""The installed programs begin here, before they load anything: Ctrl-C during loading ends them silently.

Python would show a traceback of the interrupted import. Nothing needs tidying up yet, so the signal may end the
process; a loaded command handles Ctrl-C itself."""

# The built-in module behind `signal`, which would load other modules first.
import _signal  # type: ignore[import-not-found]
import gc

COMPLETES = "_CLUSTERD_COMPLETE"
"""Environment variable of the shells' completion."""


def _until_loaded() -> bool:
    """Lets Ctrl-C end the process, unless the caller has it ignored (nohup, a job in the background)."""
    is_ours: bool = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if is_ours:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    return is_ours


def _loaded(is_ours: bool) -> None:
    if is_ours:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


_is_ours = _until_loaded()


def clusterd() -> None:
    gc.disable()  # loading modules leaves no garbage, and looking for it takes a tenth of the time
    try:
        _clusterd()
    finally:
        gc.freeze()  # what is left ends with the process; the interpreter need not look through it


def _clusterd() -> None:
    """Runs a command without click where that is quicker. The shells' completion is click's."""
    import os
    import sys

    from tools import at_once

    chosen = None if COMPLETES in os.environ else at_once.understood(sys.argv[1:], os.environ)
    if chosen is None:
        from tools.cli import main

        _loaded(_is_ours)
        main()
    else:
        run, arguments = chosen
        _loaded(_is_ours)
        at_once.end_with(lambda: run(**arguments), arguments["root"])


def cluster_control() -> None:
    gc.disable()
    from tools.cluster_control import main

    gc.enable()
    _loaded(_is_ours)
    main()


def wazuh_clusterd() -> None:
    from tools.wazuh_clusterd import main

    _loaded(_is_ours)
    main()


if __name__ == "__main__":
    clusterd()
