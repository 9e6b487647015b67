"""The operator's kit: configuration of the programs around an application, which `shmstats kit` writes."""
