"""How training examples are varied: functions of the seed, the epoch and the example."""
