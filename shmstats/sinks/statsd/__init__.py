"""StatsD as a provider: sends every operation to a StatsD server, over UDP or TCP.

`provider` takes the operations, `sender` is the thread that sends what is held of them (`operations`), over one of
the `links`.
"""

from .provider import StatsdProvider as StatsdProvider
