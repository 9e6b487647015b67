"""StatsD as a provider: sends every operation to a StatsD server, over UDP or TCP.

`provider` takes the operations, `held` folds them, `sender` is the thread that sends them, as the `lines` of
the protocol, over one of the `links`.
"""

from .provider import StatsdProvider as StatsdProvider
