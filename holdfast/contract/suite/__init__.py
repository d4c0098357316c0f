"""The suite. A test module that imports all of it runs it, with the fixture ``make_store`` that is found there."""

from .test_append import *  # noqa: F403
from .test_erasing import *  # noqa: F403
from .test_expiry import *  # noqa: F403
from .test_indexes import *  # noqa: F403
from .test_inspection import *  # noqa: F403
from .test_keys import *  # noqa: F403
from .test_life import *  # noqa: F403
from .test_names import *  # noqa: F403
from .test_past import *  # noqa: F403
from .test_reads import *  # noqa: F403
from .test_round_trip import *  # noqa: F403
from .test_transact import *  # noqa: F403
