"""The background loops: relay, sweeper, stager, pruner. Any number of instances may run; none is special."""
