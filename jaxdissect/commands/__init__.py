"""One module a command: it runs the stages, puts their results into JSON, and makes the summary from that JSON."""
