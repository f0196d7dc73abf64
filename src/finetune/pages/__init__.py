"""What people look at: one page for a run, one for several."""
