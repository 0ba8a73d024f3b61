"""The helper: the second of the two servers of secure aggregation, run by another party than the coordinator."""
