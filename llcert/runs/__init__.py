"""From options to results on disk: options are resolved, batches certified by one process or several, and every result
written as soon as it is there, so that a run that is killed goes on."""
