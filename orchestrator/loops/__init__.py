"""The background loops: relay, sweeper, stager, pruner, inspector. Any number of instances may run; none is special."""
