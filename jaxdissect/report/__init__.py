"""The report: one page on which the neurons of a run can be seen and heard."""
